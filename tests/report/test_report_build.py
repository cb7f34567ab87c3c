"""What a report file is, checked without a browser."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
import pytest
from conftest import HOSTILE
from PIL import Image
from synthetic_study import write_study

from nca_interp import discover
from nca_interp.base import UserError
from nca_interp.report import render
from nca_interp.report.build import build_report
from nca_interp.report.charts import numbers, raster
from nca_interp.report.charts.axes import LABEL_PIXELS, MAX_POINTS, spread, thin
from nca_interp.report.page import Figure
from nca_interp.report.sections.cautions import cautions
from nca_interp.report.tables import Tables


def record(path: Path) -> dict:
    found = re.search(r'<script type="application/json" id="report">(.*?)</script>', path.read_text(), re.S)
    assert found
    return json.loads(found.group(1))


def test_import_leaves_heavy_packages_alone():
    code = "import sys, nca_interp.report.build; print([m for m in ('torch','transformers','numba','datasets') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_size_and_no_address_to_load_from(report: Path):
    text = report.read_text()
    assert 1_000_000 < len(text.encode()) < 3_500_000
    own = text.replace(render.bundle(), "")
    assert text.count(render.bundle()) == 1
    assert not re.findall(r"""(?:src|href|action)=["']?(?!#)[a-z]+:""", own.split('<script type="application/json"')[0])
    assert "@import" not in own
    assert "url(" not in own


def test_policy_names_the_scripts_by_hash(report: Path):
    text = report.read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    hashes = {"sha256-" + base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts}
    allowed = policy.group(1).replace("&#39;", "'")
    assert set(re.findall(r"sha256-[A-Za-z0-9+/=]+", allowed)) == hashes
    assert len(hashes) == 2
    assert "default-src 'none'" in allowed
    assert "unsafe-eval" not in allowed


def test_hostile_label_is_text(report: Path):
    text = report.read_text()
    assert HOSTILE not in text
    assert "<img" not in text.replace(render.bundle(), "")
    assert "&lt;/script&gt;&lt;img src=x" in text
    assert any(HOSTILE in w for w in record(report)["warnings"])


def test_record_equals_sidecar_and_tables(report: Path, study: Path):
    stored = record(report)
    assert stored == json.loads(report.with_suffix(".json").read_text())
    contrasts = pd.read_csv(study / "tables" / "contrasts.csv")
    assert [v["effect"] for v in stored["verdicts"]] == pytest.approx(list(contrasts.effect))
    runs = study / "tables" / "runs.csv"
    assert stored["tables"]["runs.csv"] == hashlib.sha256(runs.read_bytes()).hexdigest()


def test_verdicts_and_final_losses_are_those_of_the_tables(report: Path, study: Path):
    text = report.read_text()
    contrasts = pd.read_csv(study / "tables" / "contrasts.csv")
    for row in contrasts[contrasts.family == "regime"].itertuples():
        assert numbers.signed(row.effect) in text
        assert numbers.interval(row.low, row.high) in text
        assert row.sentence.replace("'", "&#39;") in text
    metrics = pd.read_csv(study / "tables" / "metrics.csv")
    last = metrics[(metrics.stage == "pt") & metrics.val_loss.notna() & metrics.regime.isin(["scratch", "nca"])]
    last = last.sort_values("step").groupby("run").tail(1).groupby(["domain", "regime"]).val_loss.mean()
    for value in last:
        assert f">{value:.3f}<" in text
        assert f">{math.exp(value):.2f}<" in text


def test_same_tables_same_bytes(one_seed: Path):
    before = one_seed.read_bytes()
    assert build_report(one_seed.parent).read_bytes() == before


def test_warnings_follow_from_the_numbers(report: Path):
    told = " ".join(record(report)["warnings"])
    assert "3 seeds, 28 comparisons: the exact sign-flip test, corrected, cannot give less than p = 1" in told
    assert (
        "The plan was changed after the first run; verdicts follow what was declared: web: nca against scratch" in told
    )
    assert "SHA-256" not in told
    assert "pt.nca-high.code.s2 (diverged)" in told
    assert "Small scale" in told
    assert "uncommitted" in told
    assert "stand-in for OpenWebText" in told


def test_one_seed_allows_no_verdict(one_seed: Path):
    text = one_seed.read_text()
    assert "no verdict (one seed)" in text
    assert "One seed: there is no interval" in text
    assert not {v["verdict"] for v in record(one_seed)["verdicts"]} - {"no verdict (one seed)"}
    page = re.sub(r"[A-Za-z0-9+/]{40,}", "", text.replace(render.bundle(), ""))  # pictures in base64 may spell anything
    assert not re.search(r"\bNaN\b", page)


def test_findings_on_networks_are_the_planted_ones(report: Path, study: Path):
    figures = {f.id: f for section in _page(study).sections for f in section.items if isinstance(f, Figure)}
    assert figures["fig-cka"].finding == " ".join(
        f"{title}: nca and scratch: synthetic difference -0.250." for title in Tables(study).domains.values()
    )
    assert set(figures["fig-cka"].data.verdict) == {"differ more than seeds", "inconclusive"}
    assert "5 of 5 layers are most alike to the same layer of scratch" in figures["fig-cka-map"].finding
    assert re.search(r"scratch 0\.(59|60)", figures["fig-cka-time"].finding)
    assert re.search(r"nca (59|60|61)\.\d", figures["fig-ranks"].finding)
    assert "nca attention 0.250, MLP 0.500, norms 0.250" in figures["fig-displacement"].finding
    told = figures["fig-updates"].finding
    assert "against scratch: nca +0.60, c4 +0.60 and dyck +0.60" in told
    assert "against the stage before: nca −0.10" in told
    assert figures["fig-decode"].finding.startswith(
        "Attributes of new rules that were decoded, over runs and attributes: nca 3 of 6 and nca-low 3 of 6."
    )
    assert set(figures["fig-decode"].data.frames) == {6.0}
    assert "differ more than seeds" in report.read_text()


def _page(study: Path):
    return discover.find("reports", "study").value(Tables(study))


def test_missing_optional_tables_leave_a_sentence(tmp_path: Path):
    names = (
        "probes",
        "contrasts",
        "pairs",
        "speedup",
        "complexity",
        "reasoning",
        "published",
        "inference",
        "learned",
        "causes",
        "alike",
        "similarity",
        "streams",
        "weights",
        "updates",
        "decode",
        "decoded",
        "patterns",
        "trajectory",
    )
    text = build_report(write_study(tmp_path / "s", seeds=2, drop=names)).read_text()
    assert text.count("Left out: this study holds no") >= 9
    assert "To compare them: nca-interp analyze s --compare" in text
    assert "To measure it: nca-interp analyze s." in text
    assert 'id="fig-loss"' in text
    assert 'id="fig-heads"' not in text
    assert "No planned comparison was computed" in text


@pytest.mark.parametrize("name", ["runs", "metrics"])
def test_missing_required_table_says_what_to_run(tmp_path: Path, name: str):
    path = write_study(tmp_path / "s", seeds=1, drop=(name,))
    with pytest.raises(UserError, match="nca-interp analyze"):
        build_report(path)
    assert not (path / "report.html").exists()


def test_damaged_tables_are_named(tmp_path: Path):
    path = write_study(tmp_path / "s", seeds=1)
    runs = path / "tables" / "runs.csv"
    whole = runs.read_text()
    runs.write_text(whole.replace("vocab_size", "vocabulary", 1))
    with pytest.raises(UserError, match=r"runs\.csv: column vocab_size is missing"):
        build_report(path)
    runs.write_text(whole.replace("13500.0", "fast", 1))
    with pytest.raises(UserError, match=r"runs\.csv: column tokens_per_second"):
        build_report(path)


@pytest.mark.parametrize(
    ("body", "message"),
    [("exit(0)", "5: SystemExit: 0"), ("tables.x", "5: AttributeError"), ("1", " report 'mine' returned int")],
)
def test_a_report_of_ones_own_that_fails_is_named_and_replaces_nothing(
    study: Path, tmp_path: Path, body: str, message: str
):
    file = tmp_path / "mine.py"
    file.write_text(f"from nca_interp import report\n\n@report\ndef mine(tables):\n    return {body}\n")
    definition = discover.find("reports", "mine", tmp_path)
    before = {path: path.read_bytes() for path in study.glob("report.*")}
    with pytest.raises(UserError) as error:
        build_report(study, definition)
    assert str(error.value).startswith(f"{file}:{message}")
    assert {path: path.read_bytes() for path in study.glob("report.*")} == before


def test_files_of_ones_own_in_the_place_of_a_report_stay(tmp_path: Path):
    path = write_study(tmp_path / "s", seeds=1)
    for name, content in (("report.html", "<!doctype html>\n<p>my notes"), ("report.json", '{"my": "notes"}')):
        (path / name).write_text(content)
        with pytest.raises(UserError, match=f"{name}: is there already and no"):
            build_report(path)
        assert (path / name).read_text() == content
        (path / name).unlink()


def test_ill_health_is_a_caution(tmp_path: Path):
    path = write_study(tmp_path / "s", seeds=2)
    assert not any("spike" in c or "skipped" in c for c in cautions(Tables(path)))
    file = path / "tables" / "runs.csv"
    runs = pd.read_csv(file, keep_default_na=False)
    runs.loc[1, ["spikes", "skipped"]] = [3, 2]
    runs.loc[2, ["nonfinite", "skipped"]] = [1, 1]
    runs.to_csv(file, index=False)
    found = [c for c in cautions(Tables(path)) if any(name in c for name in (runs.run[1], runs.run[2]))]
    assert found == [
        f"A loss or gradient that was not finite occurred in 1 run: {runs.run[2]} (1 step).",
        "A loss spike (above the threshold over the running median that the run declares) occurred in 1 run: "
        f"{runs.run[1]} (3 steps).",
        "Steps were skipped, so these runs took fewer updates than the others: "
        f"{runs.run[1]} (2 of {runs.steps[1]}) and {runs.run[2]} (1 of {runs.steps[2]}).",
    ]


def test_what_was_not_learned_is_a_caution_and_the_curves_are_shown(tmp_path: Path, report: Path):
    path = write_study(tmp_path / "s", seeds=2)
    told = [c for c in cautions(Tables(path)) if "synthetic task" in c]
    assert told == [
        "Not shown to have inferred the rules of the synthetic task: NCA, gzip 0.15-0.3 (0 of 2 runs). The transfer verdict of such a regime is "
        "about training on such data, not about having learned it."
    ]
    text = report.read_text()
    assert 'id="fig-learned"' in text
    assert 'id="tab-learned"' in text
    assert "Synthetic sentence of nca." in text
    file = path / "tables" / "learned.csv"
    rows = pd.read_csv(file, keep_default_na=False)
    rows, low = rows.astype({"inferred": object}), rows.regime == "nca-low"
    rows.loc[low, "verdict"], rows.loc[low, "inferred"] = ["near the oracle", "not measured"], [True, ""]
    rows.to_csv(file, index=False)
    assert "(1 of 2 runs)" in next(c for c in cautions(Tables(path)) if "synthetic task" in c)
    rows.loc[rows.regime == "nca-low", "verdict"] = "no rule to learn"
    rows.to_csv(file, index=False)
    assert not [c for c in cautions(Tables(path)) if "synthetic task" in c]


def test_every_chart_is_legal_vega_lite_with_a_description(study: Path):
    page = discover.find("reports", "study").value(Tables(study))
    figures = [i for s in page.sections for i in s.items if isinstance(i, Figure)]
    assert len(figures) >= 11
    with alt.data_transformers.enable("default", max_rows=None):
        for figure in figures:
            assert figure.finding
            assert figure.encoding
            assert len(figure.data)
            assert figure.charts or figure.widget
            for chart in figure.charts[:1]:
                assert chart.description
                chart.spec.to_dict(validate=True)
                assert max((len(d) for d in chart.spec.to_dict().get("datasets", {}).values()), default=0) <= 10_000


def test_attention_png_keeps_small_weights():
    weights = np.tril(np.random.default_rng(0).random((40, 40)))
    weights /= weights.sum(1, keepdims=True)
    image = Image.open(_decoded(raster.attention_png(weights)))
    back = (np.asarray(image) / 255.0) ** 2
    assert np.abs(back - weights).max() < 0.004
    with pytest.raises(ValueError, match="square"):
        raster.attention_png(np.zeros((2, 3)))


@pytest.mark.parametrize("states", [2, 4, 10, 20])
def test_sprite_holds_every_frame_exactly(states: int):
    frames = np.random.default_rng(1).integers(0, states, (23, 6, 6)).astype(np.uint8)
    sheet = np.asarray(Image.open(_decoded(raster.sprite_png(frames, states))).convert("RGB"))
    colors = np.array(raster.state_colors(states))
    assert len({tuple(c) for c in colors}) == states
    for t, frame in enumerate(frames):
        y, x = divmod(t, raster.SPRITE_COLUMNS)
        assert (sheet[6 * y : 6 * y + 6, 6 * x : 6 * x + 6] == colors[frame]).all()


def _decoded(uri: str):
    return io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))


def test_end_labels_never_overlap():
    placed = spread([3.85, 3.851, 3.849, 3.2, 3.8505], 3.0, 8.0, 260)
    gaps = np.diff(sorted(placed)) * 260 / 5.0
    assert gaps.min() >= LABEL_PIXELS - 1e-6
    assert np.argsort(placed).tolist() == np.argsort([3.85, 3.851, 3.849, 3.2, 3.8505]).tolist()


def test_thinning_keeps_both_ends():
    frame = pd.DataFrame({"run": ["a"] * 5000 + ["b"] * 3, "tokens": [*range(5000), 1, 2, 3]})
    kept = thin(frame, ["run"], "tokens")
    a = kept[kept.run == "a"].tokens
    assert 100 < len(a) <= MAX_POINTS + 1
    assert (a.min(), a.max()) == (0, 4999)
    assert len(kept[kept.run == "b"]) == 3


def test_numbers_are_written_alike():
    assert numbers.signed(-0.0312) == "−0.031"
    assert numbers.fixed(float("nan")) == numbers.DASH
    assert numbers.p_value(0.0001) == "< 0.001"
    assert numbers.short(1_580_000) == "1.58\u00a0M"
    assert numbers.short(164e6) == "164\u00a0M"
    assert numbers.interval(None, 1.0) == numbers.DASH
    assert render.columnar(pd.DataFrame({"a": [float("nan"), 1.0], "b": ["x", ""]})) == {
        "n": 2,
        "columns": {"a": [None, 1], "b": {"d": ["x", ""], "i": [0, 1]}},
    }


def test_when_heads_appear_is_told_as_the_tables_have_it(report: Path, study: Path):
    text = report.read_text()
    part = text.split('<section id="emergence"')[1].split("<section id=")[0]
    for row in pd.read_csv(study / "tables" / "timing.csv", keep_default_na=False).itertuples():
        assert (row.sentence in part) == (row.family != "loss"), row.sentence
    cells = re.sub(r"<[^>]*>", "|", part)
    assert "earlier|" in cells.replace("||", "|")
    assert f"{2**-8.0:.3g}" in part
    assert "1 inconclusive" in part  # emergence beside the loss
    assert "copying: not drawn, for random weights are at the level already" in re.sub(r"<[^>]*>", "", part)
    for value in ("+0.61", "+0.62", "+0.63"):
        assert value in part
    assert "too sparse" in part


def test_appearances_stand_where_they_were_planted(study: Path):
    from nca_interp.report.sections import emergence

    tables = Tables(study)
    placed = emergence._placed(tables, tables.emergence[tables.emergence.probe == "induction"])
    at = placed.set_index(["name", "stage"])
    assert at.loc[("nca, 0", "ppt"), ["low", "high"]].tolist() == [(128 - 512) * 4096, (256 - 512) * 4096]
    assert at.loc[("nca, 0", "pt"), "x"] == 0
    assert at.loc[("scratch, 1", "pt"), ["low", "high"]].tolist() == [256 * 4096, 512 * 4096]
    assert at.loc[("c4, 2", "pt"), "x"] == 1024 * 4096
    assert placed.name.iloc[0] == "scratch, 0"


def test_the_course_of_learning_is_drawn_and_told(report: Path):
    text = report.read_text()
    assert "3 runs between 1.05\u00a0M and 2.1\u00a0M tokens" in text
    assert 'id="fig-course"' in text


def test_a_study_without_time_says_so(tmp_path: Path):
    path = write_study(tmp_path / "study", drop=("emergence", "persistence", "timing", "learning"))
    text = build_report(path).read_text()
    assert "no rows in tables/emergence.csv" in text
    assert "no rows in tables/persistence.csv" in text
    assert "fig-course" not in text
