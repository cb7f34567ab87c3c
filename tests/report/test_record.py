"""report.json: what its schema says is what is written; earlier and foreign ones; tables in one line."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd
import pytest
from synthetic_study import write_study

import nca_interp
from nca_interp.base import UserError
from nca_interp.report import render
from nca_interp.report.build import build_report
from nca_interp.report.record import SCHEMA, read_record

RULES: dict[str, Any] = json.loads((resources.files("nca_interp.report") / "report.schema.json").read_text())


def conform(record: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(RULES)
    jsonschema.validate(record, RULES)


@pytest.mark.parametrize("page", ["report", "one_seed"])
def test_what_is_written_is_what_the_schema_says(page: str, request: pytest.FixtureRequest):
    path: Path = request.getfixturevalue(page)
    record = json.loads(path.with_suffix(".json").read_text())
    conform(record)
    assert record["schema"] == SCHEMA == RULES["properties"]["schema"]["const"]
    assert record["configuration"] == json.loads((path.parent / "study.json").read_text())["study"]
    assert read_record(path) == read_record(path.parent) == read_record(path.with_suffix(".json")) == record


@pytest.mark.parametrize(
    ("key", "value"),
    [("schema", 1), ("claims", None), ("verdicts", [{}]), ("page", "other"), ("tables", {"runs.csv": "short"})],
)
def test_the_schema_sees_what_is_wrong(report: Path, key: str, value: Any):
    record = json.loads(report.with_suffix(".json").read_text())
    if value is None:
        del record[key]
    else:
        record[key] = value
    with pytest.raises(jsonschema.ValidationError):
        conform(record)


def test_a_record_of_an_earlier_version_is_read_and_one_of_a_later_refused(tmp_path: Path):
    path = tmp_path / "old.json"
    old = {"schema": 1, "study": "demo", "claims": [], "provenance": {"created": "2026-11-01", "command": "x"}}
    path.write_text(json.dumps(old))
    found = read_record(path)
    assert (found["page"], found["title"], found["created"], found["command"]) == ("study", "demo", "2026-11-01", "x")
    path.write_text(json.dumps({**old, "schema": SCHEMA + 1}))
    with pytest.raises(UserError, match="later version"):
        read_record(path)
    for text, message in (("{", "not readable"), ("[]", "JSON object"), ("{}", "study is missing")):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_record(path)
    page = tmp_path / "page.html"
    page.write_text("<p>notes</p>")
    with pytest.raises(UserError, match="no page of this program"):
        read_record(page)
    with pytest.raises(UserError, match="no report"):
        read_record(tmp_path)


def test_packed_data_come_back(report: Path):
    value = {"a": [1, None, "</script>\u2028ü"], "b": {"c": 1.5}}
    text = str(render.packed(value))
    assert "<" not in text
    assert render.unpacked(f'<script type="text/plain" id="page-data">{text}</script>') == value
    assert len(render.unpacked(report.read_text())["figures"]) > 20


def test_a_table_in_one_line(tmp_path: Path):
    study = write_study(tmp_path / "s", seeds=2, drop=("probes",))
    found = nca_interp.table(study, "runs")
    own = pd.read_csv(study / "tables" / "runs.csv")
    assert set(found.columns) == set(own.columns)
    assert found.tokens.tolist() == own.tokens.tolist()
    assert found.seed.dtype == float
    assert list(found.run) == list(own.run)
    with pytest.raises(UserError, match="did you mean 'runs'"):
        nca_interp.table(study, "run")
    with pytest.raises(UserError, match="nca-interp analyze"):
        nca_interp.table(study, "probes")
    with pytest.raises(UserError):
        nca_interp.table(tmp_path / "none", "runs")
    build_report(study)
