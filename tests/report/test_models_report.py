"""Reports of models from elsewhere, from tables with planted answers; no browser."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import pandas as pd
import pytest
from synthetic_models import GAIN, NULL_95, PLANTED, TIED, Model, write_collection

from nca_interp.report.build import build_report
from nca_interp.report.charts import numbers
from nca_interp.report.page import Figure, Note, Page, Section, Table
from nca_interp.report.sections import collection, head_facts, model_heads, model_series, model_summary, model_weights
from nca_interp.report.tables import Tables
from nca_interp.store import write_record

MOST_BYTES = 6_000_000
STEPS = (0, 100, 200, 400, 800)


def _items(found: list | tuple, kind: type) -> dict:
    items = [i for s in found for i in (s.items if isinstance(s, Section) else (s,))]
    return {i.id: i for i in items if isinstance(i, kind)}


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return Tables(write_collection(tmp_path_factory.mktemp("one") / "a", Model("smol"), causes=True))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return Tables(write_collection(tmp_path_factory.mktemp("pair") / "a", Model("base"), Model("tuned", shift=0.5)))


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return Tables(write_collection(tmp_path_factory.mktemp("series") / "a", Model("run", 8, 6, STEPS)))


def _cells(table: Table, first: str) -> dict[str, str]:
    """The row that begins with `first`, by heading."""
    row = next(r for r in table.rows if first in r[:2])
    return dict(zip(table.head, row, strict=True))


def test_the_summary_counts_heads_and_says_ties(one: Tables):
    items = model_summary.summary(one)
    kinds = _items(items, Table)["tab-kinds"]
    assert _cells(kinds, "sink") == {
        "kind of head": "sink", "heads of the kind": str(TIED), "at FDR 5 %": str(TIED), "of": "270", "highest score": "1.000",
        "where": f"{TIED} heads tie", "chance": "0.000", "random heads, 95 %": numbers.fixed(NULL_95), "threshold": "0.500",
    }  # fmt: skip
    induction = _cells(kinds, "induction")
    assert (induction["heads of the kind"], induction["where"]) == ("1", "layer 5 head 3")
    told = next(i.text for i in items if isinstance(i, Note))
    assert told.startswith(
        "smol: 270 heads in 30 layers. Heads of a kind, with the highest score and its layer.head: 69 sink (1.000, 69 heads tie)"
    )
    gain = _cells(_items(items, Table)["tab-behaviour"], "repeated_token_gain")
    assert gain["smol"] == f"{numbers.signed(GAIN['repeated_token_gain'])} ± 0.200"


def test_the_summary_says_what_is_lost_and_through_which_path(one: Tables):
    tables = _items(model_summary.summary(one), Table)
    lost = _cells(tables["tab-lost"], "induction")
    assert (lost["verdict"], lost["harm"], lost["random sets"]) == ("load-bearing", "+1.500", "+0.020")
    path = _cells(tables["tab-circuit"], "2.4")
    assert (path["to head"], path["harm, path cut"], path["K-composition"], path["of random weights"]) == ("5.3", "+0.7500", "0.200", "0.050")  # fmt: skip
    assert path["previous token score"] == "0.800"


def test_without_causes_the_summary_says_how_to_measure_them(pair: Tables):
    notes = [i.text for i in model_summary.summary(pair) if isinstance(i, Note)]
    assert any(f"{pair.dir.analyze()} --causes" in text for text in notes)


def test_ties_are_at_the_digits_that_are_shown():
    frame = pd.DataFrame({"value": [0.99999, 1.0, 0.9], "layer": [0, 1, 2], "head": [0, 0, 0]})
    assert numbers.highest(frame) == "2 heads tie"
    assert numbers.highest(frame[1:]) == "layer 1 head 0"


def test_heads_that_differ_are_found(pair: Tables):
    sections = model_heads.sections(pair)
    changed = _items(sections, Table)["tab-changed"]
    assert changed.rows[0] == ("7.1", "induction", "0.100", "0.600", "+0.500", "second only", "attention mass")
    assert "1 times a head is of a kind only in tuned" in changed.caption
    figure = _items(sections, Figure)["fig-changed"]
    row = figure.data.query("probe == 'induction' and layer == 7 and head == 1").iloc[0]
    assert row.difference == pytest.approx(0.5)
    behaviour = _cells(_items(model_summary.behaviour(pair), Table)["tab-behaviour"], "repeated_token_gain")
    assert behaviour["difference"] == "+0.500"


def test_models_of_two_shapes_are_not_subtracted(tmp_path: Path):
    tables = Tables(write_collection(tmp_path / "a", Model("small", 8, 6), Model("large", 8, 8)))
    sections = model_heads.sections(tables)
    assert "fig-changed" not in _items(sections, Figure)
    assert any(
        isinstance(i, Note) and "different numbers of layers or heads" in i.text for s in sections for i in s.items
    )


def test_weights_of_two_models_side_by_side(pair: Tables):
    sections = model_weights.sections(pair)
    rows = {row[2]: row for row in _items(sections, Table)["tab-apart"].rows}
    assert rows["attn"] == ("base", "tuned", "attn", "30", "0.1550", "0.9900")  # mean of 0.01 to 0.30
    figures = _items(sections, Figure)
    assert "base" in figures["fig-cka-map"].finding
    assert "mean over equal layers 1.000" in figures["fig-cka-map"].finding
    assert "layer 5 head 3 of base, norm 3; median over heads 2" in figures["fig-head-norms"].finding


def test_a_series_shows_the_interval_between_checkpoints(series: Tables):
    (section,) = model_series.sections(series)
    when = _cells(_items((section,), Table)["tab-emergence"], "induction")
    assert (when["state"], when["after step"], when["by step"], when["after token"]) == ("reached", "0", "100", "–")
    figure = _items((section,), Figure)["fig-emergence"]
    assert "1 appear within the checkpoints, 1 are there from the first, 1 do not appear" in figure.finding
    scores = _items((section,), Figure)["fig-series"]
    assert scores.finding == "induction, highest head: run 0.180 at step 0, 0.900 at step 800."
    assert sorted(scores.data.tokens.unique()) == list(STEPS)  # no tokens are known: steps


def test_a_series_with_known_tokens_is_drawn_over_tokens(tmp_path: Path):
    tables = Tables(write_collection(tmp_path / "a", Model("run", 8, 6, STEPS, 512)))
    rows, clock = tables.clock(tables.probes)
    assert clock == "training tokens"
    assert rows.tokens.max() == 800 * 512


def test_one_checkpoint_has_no_timeline(one: Tables):
    assert model_series.sections(one) == ()


def test_a_head_is_told_its_norms_and_what_measurements_say(one: Tables, monkeypatch: pytest.MonkeyPatch):
    extra = pd.DataFrame(
        [{"run": "smol", "layer": 5.0, "head": 3.0, "group": "Its OV circuit", "fact": "promotes", "text": "the, a"}]
    )
    monkeypatch.setitem(one._frames, "ov_tokens", extra)
    one.__dict__.pop("head_facts", None)
    facts = head_facts.of(one, ["smol"])
    assert facts is not None
    columns = {n: c if isinstance(c, list) else [c["d"][i] for i in c["i"]] for n, c in facts["columns"].items()}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    mine = {r["fact"]: r["text"] for r in rows if (r["layer"], r["head"]) == PLANTED}
    assert mine["size of its OV circuit, |W_V W_O|"] == "3, rank 1 of 270"
    assert mine["promotes"] == "the, a"
    assert head_facts.of(one, ["other"]) is None
    one.__dict__.pop("head_facts", None)


@pytest.mark.parametrize(
    "models",
    [
        (Model("smol"),),
        (Model("gpt2-like", 24, 32), Model("tuned", 24, 32, shift=0.5)),
        (Model("run", 8, 6, STEPS),),
        tuple(Model(f"m{i}", 8, 6) for i in range(4)),
    ],
    ids=["30x9", "pair of 24x32", "series", "four"],
)  # fmt: skip
def test_pages_are_whole_small_and_speak_of_no_study(tmp_path: Path, models: tuple[Model, ...]):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = build_report(write_collection(tmp_path / "a", *models))
    text = path.read_text()
    assert len(text.encode()) < MOST_BYTES
    body = text.split('<script type="application/json"')[0]
    words = re.sub(r"<style>.*?</style>", "", body, flags=re.S)
    assert not re.search(r"this study|STUDY|pre-pre-training|embedding swap|Left out:", words)
    assert "no verdict" in words  # one network of a kind


def test_labels_are_escaped(tmp_path: Path):
    hostile = "</script><img src=x onerror=alert(1)>"
    text = build_report(write_collection(tmp_path / "a", Model("a", 8, 6), Model("b", 8, 6), label=hostile)).read_text()
    assert "<img src=x" not in text
    assert "&lt;img src=x" in text


def test_a_page_names_own_files_without_the_folders_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = write_collection(tmp_path / "a", Model("smol"))
    saved = json.loads((folder / "collection.json").read_text())
    inside, outside = tmp_path / "here/texts/own.txt", tmp_path / "there/other.txt"
    saved["collection"]["settings"] |= {"text": [str(inside), str(outside), "as/given.txt"], "tokens": str(outside)}
    write_record(folder / "collection.json", saved)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    found = Tables(folder).collection
    assert found is not None
    assert found["settings"]["text"] == ["texts/own.txt", "other.txt", "as/given.txt"]
    assert found["settings"]["tokens"] == "other.txt"
    build_report(folder)
    for name in ("report.html", "report.json"):
        page = (folder / name).read_text()
        assert "texts/own.txt" in page
        assert str(tmp_path / "here") not in page
        assert str(tmp_path / "there") not in page


def test_what_was_not_measured_is_left_out_of_collections(one: Tables):
    absent, told = Note("Left out: x", quiet=True, absent=True), Note("y")
    page = collection.page(one, (Section("a", "A", (absent,)), Section("b", "B", (absent, told))))
    assert isinstance(page, Page)
    assert [(s.id, s.items) for s in page.sections] == [("b", (told,))]
