"""Definition files: found, listed without running, loaded; broken ones named with their line."""

from __future__ import annotations

from pathlib import Path

import pytest

from nca_interp import discover
from nca_interp.base import UserError
from nca_interp.cli.app import list_

RECIPE = '''"""A recipe of my own."""
from nca_interp.discover import run

@run
def my_recipe():
    """Mine."""
    return 1
'''


def test_own_folder_is_found_and_wins(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine.py").write_text(RECIPE)
    (tmp_path / "runs" / "demo.py").write_text(RECIPE.replace("my_recipe", "demo"))
    (tmp_path / "runs" / "_helper.py").write_text("raise RuntimeError")
    (tmp_path / "runs" / "other.py").write_text("raise RuntimeError('has no recipe, so is not run')")
    monkeypatch.chdir(tmp_path)
    found = discover.load("runs")
    assert found["my-recipe"].doc == "Mine."
    assert found["demo"].path == (tmp_path / "runs" / "demo.py").resolve()
    assert {"smoke", "laptop", "gpu"} <= set(found)


def test_a_broken_file_is_named_with_its_line(tmp_path):
    (tmp_path / "bad.py").write_text(RECIPE + "\n\nx = 1 / 0\n")
    with pytest.raises(UserError, match=r"bad\.py:10: ZeroDivisionError"):
        discover.load("runs", tmp_path)
    problems = []
    assert "smoke" in discover.load("runs", tmp_path, on_error=problems.append)
    assert len(problems) == 1
    (tmp_path / "bad.py").write_text("def f(:\n")
    with pytest.raises(UserError, match=r"bad\.py:1: SyntaxError"):
        discover.load("runs", tmp_path)


def test_a_name_that_two_files_of_a_folder_define_is_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "runs").mkdir()
    for file in ("one", "two"):
        (tmp_path / "runs" / f"{file}.py").write_text(RECIPE)
    (tmp_path / "runs" / "mine.py").write_text(RECIPE.replace("my_recipe", "demo"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"two\.py: defines run 'my-recipe', as .*one\.py does; rename one of them"):
        discover.find("runs", "demo")
    list_()
    told = capsys.readouterr()
    assert "two.py: defines run 'my-recipe'" in told.err
    assert "my-recipe" not in told.out
    assert "demo" in told.out


@pytest.mark.parametrize("typed", ["two_words", "two-words", "two_words.py", "runs/two_words.py"])
def test_the_name_of_a_file_is_answered_with_what_it_defines(tmp_path, monkeypatch, typed):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "two_words.py").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"unknown run .*; did you mean 'my-recipe', which .*two_words\.py defines\?"):
        discover.find("runs", typed)


@pytest.mark.parametrize(
    "how",
    [
        "exit()",
        "import sys; sys.exit('usage: x')",
        "raise SystemExit",
        "import argparse; argparse.ArgumentParser().parse_args(['x'])",
    ],
)
@pytest.mark.parametrize("kind", ["runs", "probes", "reports"])
def test_a_file_that_ends_the_program_is_named_with_its_line(tmp_path, how, kind, capfd):
    mark = kind.removesuffix("s")
    (tmp_path / "ends.py").write_text(f"def {mark}(f): return f\n@{mark}\ndef x(): pass\n{how}\n")
    with pytest.raises(UserError, match=r"ends\.py:4: SystemExit: .*must not end the program"):
        discover.load(kind, tmp_path)


def test_what_is_no_exception_is_named_too(tmp_path):
    (tmp_path / "odd.py").write_text(RECIPE + "raise GeneratorExit\n")
    with pytest.raises(UserError, match=r"odd\.py:8: GeneratorExit"):
        discover.load("runs", tmp_path)


def test_an_error_that_cannot_be_told_or_is_long_is_named_by_its_kind(tmp_path):
    odd = "class Odd(Exception):\n    def __str__(self):\n        raise RuntimeError\n"
    (tmp_path / "odd.py").write_text(RECIPE + odd + "raise Odd()\n")
    with pytest.raises(UserError, match=r"odd\.py:11: Odd: $"):
        discover.load("runs", tmp_path)
    (tmp_path / "odd.py").write_text(RECIPE + "raise ValueError('a' * 100_000)\n")
    with pytest.raises(UserError, match=r"odd\.py:8: ValueError: a{2000}\.\.\.$"):
        discover.load("runs", tmp_path)


def test_a_definition_file_leaves_the_working_directory_as_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "moves.py").write_text("import os\nos.chdir('/')\n" + RECIPE)
    assert "my-recipe" in discover.load("runs", tmp_path)
    assert Path.cwd() == tmp_path


def test_what_a_definition_file_prints_is_not_what_the_command_prints(tmp_path, capsys):
    from nca_interp.overrides import call_recipe

    (tmp_path / "talks.py").write_text(
        "import sys\nprint('loading')\nsys.stdout.close()\n" + RECIPE.replace("return 1", "print('called'); return 1")
    )
    with pytest.raises(UserError, match="returned int, expected a Study"):
        call_recipe(discover.load("runs", tmp_path)["my-recipe"].value, [])
    assert tuple(capsys.readouterr()) == ("", "loading\ncalled\n")


def test_a_recipe_may_be_wrapped(tmp_path):
    from nca_interp.overrides import call_recipe

    text = RECIPE.replace("@run", "import functools\n@run\n@functools.cache").replace("return 1", "return 1 / 0")
    (tmp_path / "cached.py").write_text(text)
    with pytest.raises(UserError, match=r"cached\.py:9: ZeroDivisionError"):
        call_recipe(discover.load("runs", tmp_path)["my-recipe"].value, [])


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("low='0'", "low: '0'; legal: a finite number"), ("hit=float('nan')", "hit: nan; legal"), ("unit=None", "unit: None; legal"),
        ("low=1.0, high=0.0", "low: 1.0, which is above high=0.0"), ("reads='loss', chance='no'", "chance: 'no'; legal"),
    ],
)  # fmt: skip
def test_what_a_probe_declares_is_checked_where_it_stands(tmp_path, given, problem):
    unit = "" if "unit" in given else ", unit='x'"
    (tmp_path / "p.py").write_text(
        f"from nca_interp import probe, repeated_tokens\n@probe(stimulus=repeated_tokens(period=64){unit}, {given})\ndef p(a): pass\n"
    )
    with pytest.raises(UserError, match=rf"p\.py:2: {problem}"):
        discover.load("probes", tmp_path)


def test_ctrl_c_passes_through_a_definition_file(tmp_path):
    (tmp_path / "slow.py").write_text(RECIPE + "raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        discover.load("runs", tmp_path)


def test_a_recipe_or_report_that_ends_the_program_when_called_is_named(tmp_path):
    from nca_interp.overrides import call_recipe

    (tmp_path / "ends.py").write_text(RECIPE.replace("return 1", "exit(0)"))
    with pytest.raises(UserError, match=r"ends\.py:7: SystemExit: 0"):
        call_recipe(discover.load("runs", tmp_path)["my-recipe"].value, [])
    (tmp_path / "ends.py").write_text(RECIPE.replace("return 1", "return 1 / 0"))
    with pytest.raises(UserError, match=r"ends\.py:7: ZeroDivisionError"):
        call_recipe(discover.load("runs", tmp_path)["my-recipe"].value, [])
    (tmp_path / "ends.py").write_text(RECIPE.replace("my_recipe()", "my_recipe(size)"))
    with pytest.raises(UserError, match="its argument 'size' has no configuration model as its default"):
        call_recipe(discover.load("runs", tmp_path)["my-recipe"].value, [])


def test_files_that_are_no_python_are_named_or_passed_over(tmp_path):
    (tmp_path / "bytes.py").write_bytes(b"\x00\x01")
    (tmp_path / "._copied.py").write_bytes(b"\x00\x05\x16\x07")  # what macOS leaves beside a file
    (tmp_path / "folder.py").mkdir()
    (tmp_path / ".#edited.py").symlink_to("user@host:1")  # what Emacs leaves
    problems = []
    discover.load("probes", tmp_path, on_error=problems.append)
    assert len(problems) == 1
    assert "bytes.py:1: " in problems[0]


def test_siblings_can_be_imported_and_stand_in_for_nothing(tmp_path, monkeypatch):
    import sys

    (tmp_path / "runs").mkdir()
    (tmp_path / "beside_me.py").write_text("VALUE = 1")
    (tmp_path / "runs" / "_in_my_folder.py").write_text("VALUE = 2")
    (tmp_path / "runs" / "colorsys.py").write_text("raise SystemExit('is no standard library')")
    source = "from beside_me import VALUE as a\nfrom _in_my_folder import VALUE as b\nimport colorsys\n"
    later = "\n    import beside_me, _in_my_folder\n    return a + b"
    (tmp_path / "runs" / "mine.py").write_text(source + RECIPE.replace("\n    return 1", later))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    before = list(sys.path)
    definition = discover.find("runs", "my-recipe")
    with discover.running(definition.path):
        assert definition.value() == 3
    assert sys.path == before


@pytest.mark.parametrize("first", ["", "import nca_interp.report.build as build", "from nca_interp.report import page"])
def test_the_three_decorators_are_imported_alike(tmp_path, first):
    import subprocess
    import sys

    code = f"""
{first}
import sys
import nca_interp
assert {bool(first)} or "pydantic" not in sys.modules and "torch" not in sys.modules
from nca_interp import probe, report, run, repeated_tokens
from nca_interp.discover import _collected
import nca_interp.report.build as again

@probe(stimulus=repeated_tokens(period=64), unit="x")
def a(): "a"
@run
def b(): "b"
@report
def c(): "c"
assert [(kind, name) for kind, name, _ in _collected] == [("probes", "a"), ("runs", "b"), ("reports", "c")]
assert (a.__doc__, b.__doc__, c.__doc__) == ("a", "b", "c")
assert again.build_report and nca_interp.report is report
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_unknown_names_get_a_suggestion(tmp_path):
    with pytest.raises(UserError, match="unknown run 'laptap'; did you mean 'laptop'"):
        discover.find("runs", "laptap")
    with pytest.raises(UserError, match="no such folder"):
        discover.load("probes", tmp_path / "nowhere")


def test_import_does_nothing_heavy(root):
    import subprocess
    import sys

    code = "import sys, nca_interp, nca_interp.cli.app, nca_interp.config, nca_interp.discover, nca_interp.store; print('torch' in sys.modules, 'numpy' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False"]


def test_the_wheel_carries_every_definition_and_no_output(root):
    import tomllib

    packed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    included = set(packed["force-include"])
    for kind in ("runs", "reports"):
        assert {f"{kind}/{p.name}" for p in (root / kind).glob("*.py")} <= included
        assert kind not in included
    assert "probes" in included
