"""A whole study of families, in small: one synthetic stage for all arms, identities in the end losses, tables and report."""

from __future__ import annotations

import json

import pytest

from nca_interp.analysis.tables import build_tables
from nca_interp.arms import control_arms, head_arms, layer_arms, matched_scratch, once, shapley_arms, sufficiency_arms
from nca_interp.config import Domain, ModelConfig, Regime, StageConfig, Study, paired_seeds
from nca_interp.data.specs import DyckSpec, NcaSpec, TextSpec, TokenizerSpec
from nca_interp.engine.jobs import execute
from nca_interp.engine.plan import make_plan
from nca_interp.graft import Graft
from nca_interp.report.build import build_report
from nca_interp.store import StudyDir

STAGE = StageConfig(steps=3, batch_size=2, lr=1e-2, eval_every=3, checkpoint_every=3, checkpoints="ends")
NCA = Regime(name="nca", label="NCA", source=NcaSpec(grid=6, n_states=2, band=None), ft=False)
DYCK = Regime(name="dyck", label="Dyck", source=DyckSpec(k=4, max_depth=3), runs={"web": 0})
WHOLE = ("attn", "mlp", "norm")
SAME = {
    "nca-all-kept": Graft(mode="keep", parts=WHOLE),
    "nca-all-lost": Graft(parts=WHOLE),
}
ARMS = once(
    *shapley_arms(NCA),
    *layer_arms(NCA, 2),
    *sufficiency_arms(NCA, ["attn+mlp+norm"], ["upper"]),
    *control_arms(NCA, ("permuted", "spectrum")),
    *control_arms(NCA, (), "attn", ["dyck"]),
    *head_arms(NCA, "one", ((0, 1),), 1),
    *matched_scratch(NCA),
    *(NCA.model_copy(update={"name": n, "label": n, "graft": g, "role": "transfer"}) for n, g in SAME.items()),
)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> StudyDir:
    text = TextSpec(source="arithmetic:", tokenizer=TokenizerSpec(vocab_size=300), max_bytes=30_000)
    recipe = Study(
        name="families", title="Families", model=ModelConfig(n_layers=2, d_model=16, n_heads=2, d_mlp=24, n_ctx=48), val_rows=8,
        ppt=STAGE, pt=STAGE, seeds=paired_seeds(2), regimes=(Regime(name="scratch", label="scratch"), NCA, DYCK, *ARMS),
        domains=(Domain(name="web", label="web", source=text),),
    )  # fmt: skip
    directory = StudyDir(tmp_path_factory.mktemp("families") / "study")
    directory.claim(recipe.model_dump(mode="json"), {"command": "test"})
    for job in make_plan(recipe, "fp32", analyze=False).jobs:
        execute(directory.path, job, None)
    return directory


def losses(study: StudyDir, regime: str) -> list[list[float]]:
    runs = [study.run(f"pt.{regime}.web.s{seed}") for seed in range(2)]
    return [[row["val_loss"] for row in run.read_metrics() if row["val_loss"] is not None] for run in runs]


def test_identities_hold_to_the_last_loss(study):
    assert losses(study, "nca-all-kept") == losses(study, "nca")
    assert losses(study, "nca-all-lost") == losses(study, "scratch")
    assert losses(study, "nca-no-attn-mlp-norm-l0") == losses(study, "nca-only-attn-mlp-norm-upper")
    assert losses(study, "nca") != losses(study, "scratch") != losses(study, "nca-no-attn")


def test_arms_share_one_synthetic_stage_and_record_what_was_done(study):
    assert sorted(run.id for run in study.all_runs() if run.id.startswith("ppt")) == [
        f"ppt.{name}.s{seed}" for name in ("dyck", "nca") for seed in range(2)
    ]
    swap = json.loads((study.run("pt.nca-no-one-random-0.web.s1").path / "swap.json").read_text())
    assert (swap["heads"], swap["heads_disjoint"]) == ([[0, 0]], True)
    gift = json.loads((study.run("pt.nca-attn-of-dyck.web.s1").path / "swap.json").read_text())
    assert gift["donor"] == "ppt.dyck.s1"
    assert {row["action"] for row in gift["tensors"] if row["kind"] == "attn"} == {"weights of dyck"}


def test_tables_and_report_tell_of_every_arm(study):
    tables = build_tables(study.path)
    transfer, shapley = tables["transfer"], tables["shapley"]
    assert set(transfer.regime) == {a.name for a in ARMS if a.source is not None}
    both = transfer[transfer.regime.str.contains("permuted|spectrum|of-dyck")]
    assert sorted(both.question) == ["necessity"] * 3 + ["sufficiency"] * 3
    ends = {
        name: [curve[-1] for curve in losses(study, name)] for name in ("scratch", "nca", "nca-no-attn", "nca-only-mlp")
    }
    row = transfer.set_index("regime")
    assert row.effect["nca-no-attn"] == pytest.approx(
        sum(a - b for a, b in zip(ends["nca-no-attn"], ends["nca"], strict=True)) / 2
    )
    assert row.effect["nca-only-mlp"] == pytest.approx(
        sum(a - b for a, b in zip(ends["scratch"], ends["nca-only-mlp"], strict=True)) / 2
    )
    assert row.effect["nca-all-kept"] == row.gap["nca-all-kept"]  # sufficiency of everything is the gap
    assert row.effect["nca-all-lost"] == row.gap["nca-all-lost"]  # and so is its necessity
    assert len(shapley) == 6
    assert shapley[shapley.quantity == "share"].effect.sum() == pytest.approx(row.gap["nca-only-mlp"])
    page = build_report(study.path).read_text()
    assert "attention of dyck" not in page
    for ident in ("fig-contrasts", "fig-carriers", "fig-shapley", "tab-carriers", "tab-controls"):
        assert f'id="{ident}"' in page, ident


def test_started_again_nothing_is_trained_again(study):
    recipe = study.study()
    before = {run.id: (run.path / "metrics.jsonl").stat().st_mtime_ns for run in study.all_runs()}
    for job in make_plan(recipe, "fp32", analyze=False).jobs:
        execute(study.path, job, None)
    assert before == {run.id: (run.path / "metrics.jsonl").stat().st_mtime_ns for run in study.all_runs()}
