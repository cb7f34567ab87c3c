"""A measurement that a user adds: one folder, and it is measured, kept, told and shown with all others."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from nca_interp.analysis.collection.run import Run
from nca_interp.base import UserError
from nca_interp.measurement import builtin, measurements
from tests.cli.test_app import call

MINE = '''"""How many numbers a checkpoint's files hold."""

import pandas as pd
from nca_interp import Measurement, Shown, keep, kept
from nca_interp.base import Frozen


class Options(Frozen):
    """Options."""

    factor: int = 1
    """What the count is multiplied by."""


def measure(run, asked):
    path, made_from = run.kept("sizes", run.steps[-1]), {"factor": asked.options.factor}
    if kept(path, made_from, numbers=["value"]) is None:
        size = sum(p.stat().st_size for p in run.last.glob("*.safetensors"))
        keep(path, pd.DataFrame({"value": [float(size * asked.options.factor)]}), made_from)
    return []


def tables(collection, tables, asked):
    rows = [{**run.at(run.steps[-1]), "value": pd.read_csv(run.kept("sizes", run.steps[-1])).value[0]} for run in collection.runs]
    return {"sizes": pd.DataFrame(rows)}


def summary(collection, tables):
    yield Shown("sizes", ["run", "bytes"], [[r.run, str(int(r.value))] for r in tables["sizes"].itertuples()])


def section(tables):
    from nca_interp.report.page import Section, Table

    rows = tuple((r.run, str(int(r.value))) for r in tables.sizes.itertuples())
    return (Section("sizes", "Sizes on disk", (Table(("model", "bytes"), rows, "Bytes of the weights."),)),)


MEASUREMENT = Measurement(
    "sizes", "Bytes of the weights on disk.", 5, measure=measure, tables=tables, summary=summary, section=section,
    options=Options, columns={"sizes": "run value"},
)
'''


def test_the_packages_own_are_found_without_torch():
    import subprocess
    import sys

    code = "import sys; from nca_interp.measurement import measurements; measurements(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
    assert {"probes", "nulls", "causes", "compare", "inference", "decode", "dynamics"} <= set(builtin())


def test_no_two_write_a_table_of_one_name():
    from nca_interp.report.columns import COLUMNS

    names = [*COLUMNS, *(name for one in builtin().values() for name in one.columns)]
    assert len(names) == len(set(names))


def test_a_users_folder_adds_one_to_jobs_tables_summary_and_report(tmp_path, tiny_checkpoint):
    folder = tmp_path / "measurements" / "sizes"
    folder.mkdir(parents=True)
    (folder / "measurement.py").write_text(MINE)
    asked = ("analyze", "--checkpoint", f"tiny={tiny_checkpoint}", "--out", "out", "--only", "sizes")
    done = call(*asked, "--set", "sizes.factor=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    size = 2 * sum(p.stat().st_size for p in tiny_checkpoint.glob("*.safetensors"))
    assert str(size) in done.stdout
    assert pd.read_csv(tmp_path / "out/tables/sizes.csv").value.tolist() == [size]
    html = (tmp_path / "out/report.html").read_text()
    assert "Sizes on disk" in html
    assert str(size) in html
    kept = json.loads((tmp_path / "out/measured/tiny/sizes/step-00000000.json").read_text())
    assert kept["made_from"] == {"factor": 2}
    assert "  sizes " in call("list", cwd=tmp_path).stdout
    wrong = call(*asked, "--set", "sizes.fcator=2", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "factor" in wrong.stderr


def test_a_file_without_one_is_named(tmp_path, monkeypatch):
    (tmp_path / "measurements").mkdir()
    (tmp_path / "measurements" / "mine.py").write_text("x = 1\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="mine.py: no MEASUREMENT"):
        measurements()


def test_an_unknown_one_gets_a_suggestion(tmp_path, tiny_checkpoint):
    done = call("analyze", "--checkpoint", tiny_checkpoint, "--cuases", cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean 'causes'" in done.stderr
    assert not (tmp_path / "runs").exists()


def example(folder):
    """The measurement of CONTRIBUTING.md in a working folder."""
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    block = next(b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "MEASUREMENT = " in b)
    file = folder / "measurements" / "sizes" / "measurement.py"
    file.parent.mkdir(parents=True)
    file.write_text(block)
    return file


def run_of(name, folder):
    weights = folder / name / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"12345")
    return Run(name, folder / "measured" / name, directories={3: weights.parent})


def test_the_example_of_the_documentation_leaves_out_runs_that_are_not_measured(tmp_path, monkeypatch):
    example(tmp_path)
    monkeypatch.chdir(tmp_path)
    one, runs = measurements()["sizes"], [run_of("a", tmp_path), run_of("b", tmp_path)]
    collection = SimpleNamespace(runs=runs)
    assert one.tables(collection, {}, None) == {}
    assert one.measure(runs[0], None) == []
    found = one.tables(collection, {}, None)["sizes"]
    assert found.to_dict("records") == [{"value": 5.0, "run": "a"}]


def test_what_tables_of_a_users_measurement_raise_names_file_and_line(tmp_path, monkeypatch):
    file = example(tmp_path)
    text = file.read_text().replace("paths = {", "paths = nothing or {")
    file.write_text(text)
    monkeypatch.chdir(tmp_path)
    line = text[: text.index("paths = nothing")].count("\n") + 1
    with pytest.raises(UserError, match=rf"measurement\.py:{line}: NameError: name 'nothing'"):
        measurements()["sizes"].tables(SimpleNamespace(runs=[]), {}, None)
