"""What a report says of single heads and of their causes, from tables with planted answers; no browser."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from synthetic_causes import SLOPE
from synthetic_study import HEADS, LAYERS, NULL_95, THRESHOLD, write_study

from nca_interp import discover
from nca_interp.base import UserError
from nca_interp.report.build import build_report
from nca_interp.report.charts import raster
from nca_interp.report.page import Figure, Table
from nca_interp.report.sections import causes, head_page, heads
from nca_interp.report.sections.cause_rows import BEFORE, read
from nca_interp.report.tables import Tables


@pytest.fixture(scope="module")
def tables(study: Path) -> Tables:
    return Tables(study)


def _figure(items: list, name: str) -> Figure:
    return next(i for i in items if isinstance(i, Figure) and i.id == name)


def test_history_in_the_page_is_the_table_to_a_65534th_of_its_range(tables: Tables):
    store = _figure(heads.head_map(tables), "fig-heads").widget.data
    assert len(store["pages"]) == 4 * 2 * 3  # regimes, domains, seeds
    page = store["pages"]["pt.nca.web.s1"]
    assert page["before"] == "ppt.nca.s1"
    assert [s["stage"] for s in page["stages"]] == ["ppt", "pt"]
    probes = tables.probes
    for stage, run in zip(page["stages"], ("ppt.nca.s1", "pt.nca.web.s1"), strict=True):
        rows = probes[(probes.run == run) & (probes.probe == "induction")].sort_values(["step", "layer", "head"])
        span = store["probes"]["induction"]
        codes = np.frombuffer(base64.b64decode(stage["probes"]["induction"]), "<u2").astype(float)
        back = span["low"] + codes / 65534 * (span["high"] - span["low"])
        assert stage["shape"] == [LAYERS, HEADS]
        assert len(stage["tokens"]) == rows.step.nunique()
        np.testing.assert_allclose(back, rows.value, atol=0.51 * (span["high"] - span["low"]) / 65534)
        assert stage["levels"]["induction"] == [0.021, NULL_95]
        assert stage["levels"]["copying"] == [0.0, None]
    assert page["stages"][0]["tokens"][-1] == 0
    assert store["pages"]["pt.scratch.web.s0"]["before"] is None


def test_budget_keeps_the_reference_and_scratch_first(tables: Tables, monkeypatch: pytest.MonkeyPatch):
    finals = tables.final_scores
    cost = len(tables.probes[tables.probes.run.isin(["pt.nca.web.s0", "ppt.nca.s0"]) & tables.probes["head"].notna()])
    monkeypatch.setattr(head_page, "HISTORY_VALUES", 2 * cost)
    assert list(head_page.pages(tables, finals).data["pages"])[:2] == ["pt.nca.web.s0", "pt.scratch.web.s0"]
    monkeypatch.setattr(head_page, "HISTORY_VALUES", 1.3 * cost)  # both still fit, with fewer checkpoints
    pages = head_page.pages(tables, finals).data["pages"]
    assert list(pages) == ["pt.nca.web.s0", "pt.scratch.web.s0"]
    stages = pages["pt.nca.web.s0"]["stages"]
    assert len(stages[0]["tokens"]) == 8
    assert stages[1]["tokens"][0] == 0
    assert stages[1]["tokens"][-1] == 1024 * 4096
    monkeypatch.setattr(head_page, "HISTORY_VALUES", 1)
    assert list(head_page.pages(tables, finals).data["pages"]) == ["pt.nca.web.s0"]


def test_hits_are_counted_and_named(tables: Tables):
    figure = _figure(heads.head_map(tables), "fig-heads")
    rows = tables.final_scores.query("probe == 'induction'")
    counted = {r: int((p.value > max(NULL_95, THRESHOLD)).sum()) for r, p in rows.groupby("regime")}
    assert counted["nca"] > 0
    for regime, n in counted.items():
        told = f"{regime} {n} of {3 * 2 * LAYERS * HEADS} heads ({max(n - 6, 0)} at a false discovery rate of 5 %)"
        assert told in figure.finding  # six models, one hit less each
    assert "95th percentile 0.060" in figure.finding
    assert "Outlined: hits" in figure.encoding
    options = dict(figure.choices[0].options)
    assert options["induction"].endswith(f"hits {sum(counted.values())} of {len(rows)})")
    assert "hits" not in options["copying"]
    summary = figure.data.query("run == 'pt.nca.web.s0' and probe == 'induction'").iloc[0]
    own = rows[rows.run == "pt.nca.web.s0"]
    assert summary["value"] == own.value.max()
    assert summary.hits == (own.hit == 1).sum()


def test_without_random_models_nothing_is_said_of_hits(tmp_path: Path):
    path = write_study(tmp_path / "s", seeds=1, drop=("hits",))
    file = path / "tables" / "probes.csv"
    rows = pd.read_csv(file, keep_default_na=False)
    rows[["null_95", "hit"]] = ""
    rows.to_csv(file, index=False)
    figure = _figure(heads.head_map(Tables(path)), "fig-heads")
    assert "Hits" not in figure.finding
    assert "Outlined" not in figure.encoding
    assert "random weights" in str(heads.induction(Tables(path))[0].charts[0].spec.to_dict(validate=False))


def test_timeline_prefers_the_measured_null(tables: Tables):
    chart = str(heads.induction(tables)[0].charts[0].spec.to_dict(validate=False))
    assert "random models, 95th percentile 0.060" in chart
    assert "random weights" not in chart


def test_sheet_holds_every_thumbnail_where_it_belongs():
    maps = np.random.default_rng(0).random((2, 3, 8, 8))
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(raster.sheet_png(maps).split(",", 1)[1]))))
    assert image.shape == (16, 24)
    np.testing.assert_array_equal(image[8:16, 16:24], np.rint(255 * np.sqrt(maps[1, 2])))


def test_thumbnails_of_every_exhibit_and_the_page_that_they_open(tables: Tables):
    entries = _figure(head_page.thumbnails(tables), "fig-thumbnails").widget.data["entries"]
    assert [e["run"] for e in entries] == ["pt.nca.web.s0", "ppt.nca.s0", "pt.scratch.web.s0", "pt.dyck.web.s0"]
    assert entries[1]["page"] == "pt.nca.web.s0"
    assert set(entries[0]["whole"]) == {f"{layer}.{head}" for layer in (1, 2, 3) for head in range(HEADS)}


def test_patterns_of_an_earlier_version_are_named(tmp_path: Path):
    path = write_study(tmp_path / "s", seeds=1)
    file = path / "tables" / "patterns.json"
    file.write_text(file.read_text().replace('"whole"', '"heads"'))
    with pytest.raises(UserError, match=r"patterns\.json.*nca-interp analyze"):
        build_report(path)


def test_planted_correlation_is_found_and_the_rest_is_open(tables: Tables):
    figure = _figure(causes.section(tables), "fig-load")
    told = figure.data.set_index(["place", "regime", "probe", "metric"])
    web = tables.domains["web"]
    planted = told.loc[(web, "nca", "induction", "repeated_token_loss")]
    assert (planted.rho, planted.low, planted.high, planted.seeds, planted.heads) == (1, 1, 1, 3, 16)
    assert planted.p == pytest.approx(1e-4)
    assert planted.p < planted.p_bh < 0.05
    assert planted.verdict == "rises with harm"
    assert told.loc[(web, "nca", "induction", "own_loss")].rho == -1.0
    assert told.loc[(web, "nca", "induction", "own_loss")].verdict == "falls with harm"
    # an accuracy falls where a head is lost: that is harm too
    assert told.loc[(web, "nca", "induction", "nca_patch_accuracy")].rho == 1.0
    scratch = told.loc[(web, "scratch", "induction", "repeated_token_loss")]
    assert scratch.verdict == "inconclusive"
    assert "nca +1.00 [+1.00, +1.00], p < 0.001 (3 seeds of 16 heads): rises with harm" in figure.finding
    assert "scratch" in figure.finding
    assert "inconclusive" in figure.finding
    assert (BEFORE, "nca", "induction", "repeated_token_loss") in told.index


def test_harm_is_signed_so_that_more_is_worse(tables: Tables):
    found = read(tables)
    rows = found.of("ablation").query("run == 'pt.nca.web.s0'")
    scores = tables.final_scores.query("run == 'pt.nca.web.s0' and probe == 'induction'")
    for metric, factor in (("repeated_token_loss", SLOPE), ("nca_patch_accuracy", SLOPE / 10)):
        both = rows[rows.metric == metric].merge(scores, on=["layer", "head"])
        np.testing.assert_allclose(both.harm, factor * both.value_y)


def test_top_heads_are_judged_by_the_planted_sets(tables: Tables):
    items = causes.section(tables)
    told = _figure(items, "fig-top-heads").data
    loss = told[(told.metric == "repeated_token_loss") & (told.place == tables.domains["web"])]
    verdicts = loss.set_index(["regime", "probe"]).verdict
    assert verdicts["nca", "induction"] == "load-bearing"
    assert verdicts["scratch", "induction"] == "not load-bearing"
    assert verdicts["nca", "previous-token"] == "inconclusive"
    bearing = loss.set_index(["regime", "probe"]).loc[("nca", "induction")]
    assert bearing.excess == pytest.approx(0.4, abs=0.01)
    assert (bearing.p, bearing.p_holm, bearing.family) == (4**-3, 4**-3, "declared")
    # the accuracy falls by as much: the same verdict
    assert set(told[(told.regime == "nca") & (told.probe == "induction")].verdict) == {"load-bearing"}
    table = next(i for i in items if isinstance(i, Table) and i.id == "tab-top-heads")
    assert any(r[0] == "load-bearing" and r[1].startswith("nca") for r in table.rows)


def test_shared_heads_agree_with_the_table_and_cross_the_swap(tables: Tables):
    table = next(i for i in causes.section(tables) if isinstance(i, Table) and i.id == "tab-shared")
    web = tables.domains["web"]
    rows = {(r[1], r[2], r[3]): r for r in table.rows}
    own = rows[f"nca, {web}", "repeated_token_loss", "own_loss"]
    assert own[0] == "opposite heads"
    assert own[4] == "−1.00"  # as the planted cross_task rows say
    # the same heads are special in both stages of a seed
    assert (f"nca, {web}", f"own_loss, {BEFORE}", "own_loss, after the swap") in rows
    assert not any(r[1].startswith("scratch") and "after the swap" in r[3] for r in table.rows)


def test_one_seed_gives_an_interval_over_heads_and_no_equivalence(tmp_path: Path):
    items = causes.section(Tables(write_study(tmp_path / "s", seeds=1)))
    told = _figure(items, "fig-load").data
    assert (told.seeds == 1).all()
    assert (told.low <= told.rho).all()
    assert (told.high >= told.rho).all()
    assert "not load-bearing" not in set(_figure(items, "fig-top-heads").data.verdict)


def test_without_causes_the_report_says_what_to_run(tmp_path: Path):
    path = write_study(tmp_path / "s", seeds=1, drop=("causes",))
    text = build_report(path).read_text()
    assert 'id="fig-load"' not in text
    assert f"Run: nca-interp analyze {path} --causes" in text


def test_causes_of_half_a_study(tmp_path: Path):
    path = write_study(tmp_path / "s", seeds=2, drop=("score_harm", "top_sets", "shared_heads"))
    file = path / "tables" / "causes.csv"
    rows = pd.read_csv(file, keep_default_na=False)
    rows[(rows.probe == "ablation") & (rows.run == "pt.scratch.web.s0")].to_csv(file, index=False)
    ids = {
        i.id
        for s in discover.find("reports", "study").value(Tables(path)).sections
        for i in s.items
        if isinstance(i, Figure)
    }
    assert "fig-load" in ids
    assert not ids & {"fig-top-heads", "fig-layers", "fig-lens"}
