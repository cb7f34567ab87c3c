"""Definition files: found, listed without running, loaded; broken ones named with their line."""

from __future__ import annotations

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


def test_layers_point_one_way(root):
    """train/ knows neither analysis nor report; report/ knows neither torch nor train; model/ and data/ know none."""
    forbidden = {
        "train": ("nca_interp.analysis", "nca_interp.report", "nca_interp.engine"),
        "report": ("torch", "nca_interp.train", "nca_interp.model", "nca_interp.analysis", "transformers"),
        "model": ("nca_interp.train", "nca_interp.analysis", "nca_interp.report"),
        "data": ("nca_interp.train", "nca_interp.analysis", "nca_interp.report", "nca_interp.model"),
        "analysis": ("nca_interp.report", "nca_interp.engine"),
    }
    import ast

    for package, names in forbidden.items():
        for path in (root / "nca_interp" / package).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                modules = (
                    [a.name for a in node.names]
                    if isinstance(node, ast.Import)
                    else [node.module or ""]
                    if isinstance(node, ast.ImportFrom)
                    else []
                )
                for module in modules:
                    assert not any(module == n or module.startswith(n + ".") for n in names), (
                        f"{path}: imports {module}"
                    )


def test_the_wheel_carries_every_definition_and_no_output(root):
    import tomllib

    packed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    included = set(packed["force-include"])
    for kind in ("runs", "reports"):
        assert {f"{kind}/{p.name}" for p in (root / kind).glob("*.py")} <= included
        assert kind not in included
    assert "probes" in included
