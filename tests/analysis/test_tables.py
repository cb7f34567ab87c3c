"""The tidy tables of a small study whose numbers are known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nca_interp.analysis.causes.study import causes_of_run
from nca_interp.analysis.inference.study import infer_run
from nca_interp.analysis.probing import exhibited
from nca_interp.analysis.probing.engine import analyze_run
from nca_interp.analysis.probing.null_study import null_of_run
from nca_interp.analysis.probing.patterns import export_patterns
from nca_interp.analysis.probing.summary import summarise
from nca_interp.analysis.readout.study import decode_run
from nca_interp.analysis.similarity.study import compare_run
from nca_interp.analysis.tables import build_tables
from nca_interp.base import UserError
from nca_interp.config import Domain, ModelConfig, Regime, Seeds, StageConfig, Study
from nca_interp.data.specs import ArithmeticSpec, DyckSpec, NcaSpec, QaSpec, TextSpec, TokenizerSpec
from nca_interp.data.tokens import TokenFile, write_tokens
from nca_interp.measurement import measurements
from nca_interp.model.checkpoint import save_model
from nca_interp.model.llama import build
from nca_interp.store import StudyDir, read_json, seal, write_json
from nca_interp.train.run import RunConfig
from tests.analysis.runs import opened, run_of

MODEL = ModelConfig(n_layers=2, d_model=16, n_heads=2, d_mlp=24, n_ctx=64)
STAGE = StageConfig(steps=4, batch_size=2, lr=1e-3)
NCA = NcaSpec(grid=6, n_states=2, band=None)
TEXT = TextSpec(source="arithmetic:", tokenizer=TokenizerSpec(vocab_size=300), max_bytes=30_000)
QA = QaSpec(n_train=8, n_val=4, n_test=10, arithmetic=ArithmeticSpec(digits=1, max_steps=1))
FINAL = {"scratch": 3.0, "nca": 2.9, "dyck": 3.001, "no-attn": 2.99}


def _study() -> Study:
    return Study(
        name="tiny", title="t", model=MODEL, ppt=STAGE, pt=STAGE, val_rows=8,
        seeds=tuple(Seeds(init=s, order=s, rules=s) for s in range(3)),
        regimes=(
            Regime(name="scratch", label="scratch"), Regime(name="dyck", label="Dyck", source=DyckSpec(k=8, max_depth=4)),
            Regime(name="nca", label="NCA", source=NCA),
            Regime(name="no-attn", label="without attention", source=NCA, keep=("mlp", "norm"), role="transfer"),
        ),
        domains=(Domain(name="math", label="arithmetic", source=TEXT, qa=QA),), ft=STAGE,
    )  # fmt: skip


def _add_run(
    study: StudyDir, stage: str, regime: str, seed: int, tokens: str, parent: str | None, state: str = "done"
) -> None:
    domain = "math" if stage != "ppt" else None
    run_id = f"{stage}.{regime}.{domain}.s{seed}" if domain else f"{stage}.{regime}.s{seed}"
    source = (
        {"nca": NCA, "no-attn": NCA, "dyck": DyckSpec(k=8, max_depth=4)}.get(regime, TEXT) if stage == "ppt" else TEXT
    )
    config = RunConfig(
        id=run_id, stage=stage, regime=regime, label=regime.upper(), role="transfer" if regime == "no-attn" else "regime", domain=domain,
        seed=seed, seeds=Seeds(init=seed, order=seed, rules=seed), model=MODEL, config=STAGE, tokens=tokens,
        source=source.model_dump(mode="json"), parent=parent, keep=("attn", "mlp", "norm"), reinit_to="initial", precision="fp32",
    )  # fmt: skip
    run = study.run(run_id)
    run.path.mkdir(parents=True)
    write_json(run.config, config.model_dump(mode="json"))
    run.set_status(state, 4)
    if stage == "ft":
        write_json(run.result, {"n": 10, "correct": 4 + seed, "too_long": 0, "results": []})
    if stage == "pt":
        row = {"layer": 0, "quantity": "resid_rms", "value": 0.02, "unit": "residual stream", "n": 512}
        after = {"tokens": tokens, "rows": [row, {**row, "layer": None, "quantity": "loss", "value": None}]}
        write_json(
            run.path / "swap.json", {"policy": {}, "tensors": [], "before": after if parent else None, "after": after}
        )
    end = FINAL[regime] + 0.001 * seed + 0.0001 * seed * len(regime)
    losses = [6.0, 5.0, 4.0, end + 0.1, end]
    rows = [
        {"step": s, "tokens": 128 * s, "loss": v, "val_loss": v if s != 1 else None, "val_bpb": None, "grad_norm": 1.0, "lr": 1e-3,
         "tokens_per_second": None if s == 0 else 1000.0 + s, "loader_share": None if s == 0 else 0.001 * s,
         "event": {2: "spike", 3: "nonfinite"}.get(s), "skipped": s == 3} for s, v in enumerate(losses)
    ]  # fmt: skip
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """Three seeds of four regimes; one NCA seed diverged; checkpoints and probes of two runs only."""
    path = tmp_path_factory.mktemp("study")
    directory = StudyDir(path)
    directory.claim(_study().model_dump(mode="json"), {"command": "test"})
    vocab = {}
    for name, spec in {"nca": NCA, "dyck": DyckSpec(k=8, max_depth=4), "math": TEXT}.items():
        vocab[name] = write_tokens(path / "tokens" / name, spec, n_train=16, n_val=8, seq_len=64, seed=0).vocab_size
    meta = read_json(path / "tokens" / "math" / "meta.json")
    meta["provenance"]["val_documents_miscounted"] = 2
    write_json(path / "tokens" / "math" / "meta.json", meta)
    seal(path / "tokens" / "math")
    for seed in range(3):
        for regime in ("nca", "dyck"):
            _add_run(directory, "ppt", regime, seed, f"tokens/{regime}", None)
        for regime in FINAL:
            parent = {"nca": f"ppt.nca.s{seed}", "no-attn": f"ppt.nca.s{seed}", "dyck": f"ppt.dyck.s{seed}"}.get(regime)
            state = "diverged" if (regime, seed) == ("dyck", 2) else "done"
            _add_run(directory, "pt", regime, seed, "tokens/math", parent, state)
        for regime in ("nca", "scratch"):
            _add_run(directory, "ft", regime, seed, "tokens/math", f"pt.{regime}.math.s{seed}")
    for run_id in ("pt.nca.math.s0", "pt.scratch.math.s0"):
        run = directory.run(run_id)
        provenance = {
            "run": run_id, "regime": run_id.split(".")[1], "domain": "math", "seed": 0, "stage": "pt", "step": 4, "tokens": 512, "tokens_dir": "tokens/math",
        }  # fmt: skip
        save_model(
            build(MODEL, vocab["math"], 0, "pt"), run.checkpoint(4), provenance, path / "tokens/math/tokenizer.json"
        )
        assert analyze_run(run_of(directory, run_id)).problems == []
        assert null_of_run(opened(directory), run_of(directory, run_id), 2) == []
    assert causes_of_run(run_of(directory, "pt.nca.math.s0")) == []
    meta = TokenFile.open(path / "tokens/nca").meta
    model = build(MODEL, meta.vocab_size, 0, "ppt")
    run = directory.run("ppt.nca.s0")
    provenance = {
        "run": run.id, "regime": "nca", "domain": None, "seed": 0, "stage": "ppt", "step": 4, "tokens": 512, "tokens_dir": "tokens/nca",
        "meta": meta.model_dump(mode="json"),
    }  # fmt: skip
    save_model(model, run.checkpoint(4), provenance, None)
    run = run_of(directory, "ppt.nca.s0")
    assert infer_run(run) == []
    assert analyze_run(run).problems == []
    assert decode_run(run) == []
    for run_id in ("pt.nca.math.s1", "pt.scratch.math.s1"):
        save_model(build(MODEL, vocab["math"], 1, "pt"), directory.run(run_id).checkpoint(4), {}, None)
    for run_id in (f"pt.{regime}.math.s{seed}" for seed in range(2) for regime in ("nca", "scratch")):
        assert compare_run(opened(directory), run_of(directory, run_id)) == []
    return path


@pytest.fixture(scope="module")
def tables(study) -> dict[str, pd.DataFrame]:
    return build_tables(study)


EMPTY = {
    "pooled", "scratches",  # one domain, one scratch arm
    "shapley", "shapley_seeds",  # one arm, not all sets of modules
    "retrieval", "retrieval_seeds", "profiles", "profile_seeds", "step_effects",  # not measured of this study
    "head_rules", "mediation", "mediation_seeds", "blinded",  # no arm of it asks
    "survival", "fates", "fate_seeds",  # its networks are random: no head of a kind has grown
}  # fmt: skip


def test_the_written_tables_are_those_of_the_documentation(study, tables, root):
    documented = {}
    for line in "".join((root / "docs" / name).read_text() for name in ("tables.md", "compare.md")).splitlines():
        cells = [c.strip() for c in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == 3 and cells[0] != "table":
            documented[cells[0]] = [
                c.split(" ")[0] for c in cells[2].split(", ") if not c.startswith(("pt+ppt", "flops)"))
            ]
    elsewhere = {name for one in measurements().values() for name in one.columns}
    assert set(tables) <= set(documented) <= set(tables) | elsewhere
    for name in tables:
        columns = documented[name]
        stored = pd.read_csv(study / "tables" / f"{name}.csv")
        assert list(stored.columns) == columns, name
        assert len(stored) == len(tables[name]), name
        assert (len(stored) > 0) == (name not in EMPTY), name


def test_the_start_of_each_pre_training_is_a_row_a_number(study, tables):
    start, runs = tables["start"], tables["runs"].set_index("run")
    counts = start.groupby("run").side.agg(list)
    assert counts["pt.nca.math.s0"] == ["before"] * 2 + ["after"] * 2
    assert counts["pt.scratch.math.s0"] == ["after"] * 2
    assert set(start.policy) == {"embedding N(0, 0.02\u00b2), unembedding N(0, 0.02\u00b2)"}
    assert runs.swap["pt.nca.math.s0"] == start.policy[0]
    assert runs.swap["ppt.nca.s0"] == ""


def test_what_a_token_source_lacks_is_noted_once(tables):
    (row,) = tables["notes"].itertuples()
    assert row.source == "math"
    assert row.note.startswith(
        "bits per byte are approximate: the bytes of the tokens are not those of the text in 2 of "
    )


def test_runs_and_their_costs(tables):
    runs = tables["runs"].set_index("run")
    assert runs.loc["pt.dyck.math.s2", "state"] == "diverged"
    nca = runs.loc["pt.nca.math.s0"]
    assert (nca.tokens, nca.ppt_tokens) == (512, 512)
    assert runs.loc["pt.scratch.math.s0", "ppt_tokens"] == 0
    assert runs.loc["ft.nca.math.s0", "ppt_tokens"] == 512
    assert nca.params == MODEL.n_params(nca.vocab_size)
    assert nca.flops == 512 * MODEL.flops_per_token(nca.vocab_size)
    assert nca.tokens_per_second == 1002.5
    assert nca.loader_share == pytest.approx(0.0025)
    assert (nca.spikes, nca.nonfinite, nca.skipped) == (1, 1, 1)
    assert len(nca.checkpoint_sha256) == 64
    assert runs.loc["ppt.nca.s0", "domain"] == ""


def test_a_diverged_run_enters_no_comparison(tables):
    contrasts = tables["contrasts"].set_index(["family", "treated", "control"])
    assert contrasts.loc[("regime", "nca", "dyck")].n == 2
    gap = contrasts.loc[("regime", "nca", "scratch")]
    assert gap.n == 3
    differences = [-0.1 + 0.0001 * s * (3 - 7) for s in range(3)]
    assert gap.effect == pytest.approx(np.mean(differences))
    assert gap.verdict == "better"
    assert gap.ppl_change_pct == pytest.approx(100 * math.expm1(np.mean(differences)))
    assert {("transfer", "no-attn", "nca"), ("transfer", "no-attn", "scratch")} <= set(contrasts.index)
    # four comparisons of loss and two of accuracy; NCA against scratch is one of them, once
    assert set(contrasts.comparisons) == {6}
    lost = contrasts.loc[("regime", "nca", "dyck")]
    assert (lost.lost, lost.planned, lost.pending) == ("pt.dyck.math.s2", 3, "")
    assert "Lost, with its pair: pt.dyck.math.s2." in lost.sentence
    # Dyck was never fine-tuned, so that comparison waits; NCA's has all its runs
    reasoning = tables["contrasts"].query("family == 'reasoning'").set_index("control")
    assert reasoning.loc["dyck", "lost"] == "pt.dyck.math.s2"
    assert reasoning.loc["dyck", "n"] == 0
    assert reasoning.loc["scratch", "n"] == 3
    assert not ((tables["speedup"].regime == "dyck") & (tables["speedup"].seed == 2)).any()


def test_speed_up_and_reasoning(tables):
    speedup = tables["speedup"]
    nca = speedup[(speedup.regime == "nca") & (speedup.seed == 0)].set_index("budget")
    # NCA passes 3.0 exactly at its third of four validations
    assert nca.loc["pt", "speedup"] == pytest.approx(4 / 3)
    assert nca.loc["pt+ppt", "speedup"] == pytest.approx(512 / (384 + 512))
    assert (speedup[speedup.regime == "dyck"].target_of == "regime").all()
    assert (speedup[(speedup.regime == "dyck") & (speedup.budget == "pt")].speedup < 1).all()
    mean = tables["speedups"].query("regime == 'nca' and budget == 'pt'").iloc[0]
    assert mean.n == 3
    assert mean.low <= mean.speedup <= mean.high
    reasoning = tables["reasoning"].set_index("run")
    assert reasoning.loc["ft.nca.math.s1", "accuracy"] == 0.5
    assert reasoning.loc["ft.nca.math.s1", "low"] < 0.5 < reasoning.loc["ft.nca.math.s1", "high"]
    assert "reasoning" in set(tables["contrasts"].family)


def test_published_numbers_stand_beside_ours(tables):
    rows = tables["published"].set_index(["domain", "metric", "regime"])
    assert set(tables["published"].same_setting) == {"no"}
    math_nca = rows.loc[("math", "final validation perplexity, OpenWebMath", "nca")]
    assert math_nca.published == 7.70
    final = [FINAL["nca"] + 0.001 * s + 0.0003 * s for s in range(3)]
    assert math_nca.ours == pytest.approx(math.exp(np.mean(final)))
    assert math_nca.ours_low < math_nca.ours < math_nca.ours_high
    assert rows.loc[("math", "perplexity change against scratch, %, OpenWebMath", "nca")].ours < 0
    assert tables["published"][tables["published"].domain == "web"].ours.isna().all()
    assert math_nca.why.startswith("published: 1.6 B parameters")


def test_complexity_names_sources_regimes_and_domains(tables):
    rows = tables["complexity"]
    assert {("nca", "nca", ""), ("dyck", "dyck", ""), ("math", "", "math")} == set(
        rows[["source", "regime", "domain"]].drop_duplicates().itertuples(index=False, name=None)
    )
    assert rows[rows.source == "nca"].n_states.eq(2).all()
    assert {"gzip_ratio_normalised", "gzip_ratio_shuffled", "unigram_entropy"} <= set(rows.measure)


def test_patterns_trajectory_and_definitions(study, tables):
    entries = json.loads((study / "tables/patterns.json").read_text())
    assert [(e["run"], e["shown"]) for e in entries] == [
        ("pt.nca.math.s0", "random tokens twice"),
        ("pt.nca.math.s0", "natural text"),
        ("pt.scratch.math.s0", "random tokens twice"),
        ("pt.scratch.math.s0", "natural text"),
        ("ppt.nca.s0", "its own synthetic data"),
    ]
    with np.load(study / "tables/patterns.npz") as arrays:
        for entry in entries:
            whole, small = arrays[f"{entry['key']}-whole"], arrays[f"{entry['key']}-thumbnails"]
            layers, heads, side, _ = small.shape
            assert entry["whole"] == [[layer, head] for layer in range(layers) for head in range(heads)]
            assert whole.shape == (layers * heads, *(len(entry["tokens"]),) * 2)
            np.testing.assert_allclose(whole.astype(float).sum(-1), 1, atol=2e-3)
            assert not np.triu(whole, 1).any()
            assert (small.max((2, 3)).ravel() == whole.max((1, 2))).all()
    trajectory = json.loads((study / "tables/trajectory.json").read_text())
    row = np.concatenate(trajectory["tokens"])
    assert any(np.array_equal(row, r[: len(row)]) for r in TokenFile.open(study / "tokens/nca").val)
    assert np.array(trajectory["frames"]).shape == (len(trajectory["tokens"]), 6, 6)
    docs = {d["name"]: d for d in json.loads((study / "tables/probes.json").read_text())}
    assert docs["induction"]["doc"].startswith("Induction")
    assert set(docs) == set(tables["probes"].probe)


def test_written_tables_are_the_same_again(study, tables):
    before = {p.name: p.read_bytes() for p in (study / "tables").iterdir()}
    build_tables(study)
    assert {p.name: p.read_bytes() for p in (study / "tables").iterdir()} == before


def test_patterns_are_made_once_and_again_where_they_are_damaged_or_the_weights_changed(study, tables, monkeypatch):
    made = []

    def export(directory, *how):
        made.append(directory.parent.parent.name)
        return export_patterns(directory, *how)

    monkeypatch.setattr(exhibited, "export_patterns", export)
    shown = ["pt.nca.math.s0", "pt.scratch.math.s0", "ppt.nca.s0"]
    before = [(study / "tables" / name).read_bytes() for name in ("patterns.npz", "patterns.json")]
    collection, run = opened(study), run_of(study, shown[0])
    for one in collection.runs:  # as the workers do, where the model is open
        exhibited.keep_exhibits(collection, one)
    exhibited.write_patterns(collection, tables["probes"])
    assert made == []
    kept = run.kept("patterns", run.steps[-1]).with_suffix(".npz")
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-9])
    exhibited.write_patterns(collection, tables["probes"])
    assert made == shown[:1]
    assert kept.read_bytes() == whole
    monkeypatch.setattr(exhibited, "weights_sha256", lambda directory: f"other {directory}")
    exhibited.write_patterns(collection, tables["probes"])
    assert made == [shown[0], *shown]
    assert [(study / "tables" / name).read_bytes() for name in ("patterns.npz", "patterns.json")] == before


def test_what_a_run_learned_is_measured_once_and_again_where_the_weights_changed(study, tables, monkeypatch):
    from nca_interp.analysis.inference import study as inference_study

    learned, curve = tables["learned"], tables["inference"]
    assert list(learned.run) == ["ppt.nca.s0"]
    assert learned.verdict[0].startswith(("no better than", "inconclusive"))  # random weights
    assert not learned.inferred[0]
    last = curve[(curve.rules == "new") & (curve.quantity == "cell_accuracy") & curve.frame.isin([3, 4])]
    means = last.groupby("predictor").value.mean()
    assert learned.accuracy[0] == pytest.approx(means["free-running"])
    assert learned.effect[0] == pytest.approx(means["free-running"] - means[learned.rival[0]])
    calls = []

    def measured(directory, **how):
        calls.append(directory)
        raise UserError("the context is too short")

    run = run_of(study, "ppt.nca.s0")
    monkeypatch.setattr(inference_study, "rule_inference", measured)
    assert (inference_study.infer_run(run), calls) == ([], [])
    monkeypatch.setattr(inference_study, "inference_hash", lambda: "another engine")
    stale = inference_study.inference_tables(opened(study).runs)
    assert list(stale["learned"].verdict) == ["not measured"]
    assert "has not reached this run" in stale["learned"].sentence[0]
    path = run.kept("inference", 4)
    before = {file: file.read_bytes() for file in (path, path.with_suffix(".json"))}
    assert inference_study.infer_run(run) == []
    assert inference_study.infer_run(run) == []
    assert len(calls) == 1  # the reason is kept like a result
    again = inference_study.inference_tables(opened(study).runs)
    assert "the context is too short" in again["learned"].sentence[0]
    assert again["inference"].empty
    for file, content in before.items():
        file.write_bytes(content)


def test_what_is_read_out_is_measured_once_and_a_reason_is_kept_like_a_result(study, tables, monkeypatch):
    from nca_interp.analysis.readout import study as decode_study

    decode, decoded = tables["decode"], tables["decoded"]
    assert set(decoded.run) == {"ppt.nca.s0"}
    assert set(decoded.attribute) == set(decode.attribute)
    best = decode[(decode.source == "model") & (decode.frames == 5) & (decode.attribute == decoded.attribute[0])]
    assert decoded.spearman[0] == best.spearman.max()
    run = run_of(study, "ppt.nca.s0")
    path = run.kept("decode", 4)
    before = {file: file.read_bytes() for file in (path, path.with_suffix(".json"))}
    calls = []

    def refuse(model, directory):
        calls.append(directory)
        raise UserError("no attribute varies")

    monkeypatch.setattr(decode_study, "rules_of", refuse)
    assert (decode_study.decode_run(run), calls) == ([], [])
    monkeypatch.setattr(decode_study, "code_hash", lambda files: "another engine")
    assert decode_study.decode_tables(opened(study).runs)["decode"].empty
    assert (decode_study.decode_run(run), decode_study.decode_run(run), len(calls)) == ([], [], 1)
    again = decode_study.decode_tables(opened(study).runs)["decoded"]
    assert list(again.sentence) == ["Not measured: no attribute varies."]
    for file, content in before.items():
        file.write_bytes(content)


def test_a_folder_without_a_study(tmp_path):
    with pytest.raises(UserError, match="not a study"):
        build_tables(tmp_path)


def test_summary_lines(tables):
    lines = {line[0]: line for line in summarise(tables["probes"].query("run == 'pt.nca.math.s0'"))}
    assert all(isinstance(cell, str) for line in lines.values() for cell in line)
    assert lines["repeated_token_gain"][2] == "model"
    assert "." in lines["induction"][2]
