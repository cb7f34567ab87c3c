"""Two known heads that carry a whole transfer are found by their rule and recognised, random sets are not: from the plan to the table.

The transfer is planted by training nothing else: in the synthetic stage (repeated tokens) all gradients but those of one head in each
of two layers, and of the embeddings, which the swap draws anew, are zero, and nothing decays. So whatever language gains is
theirs: an arm without them is scratch, one with them alone is full transfer, bit by bit.
"""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

import nca_interp
from nca_interp.analysis.tables import build_tables
from nca_interp.arms import blinded_arms, mediation_arms
from nca_interp.config import Domain, ModelConfig, Regime, StageConfig, Study, paired_seeds
from nca_interp.data.controls.repeat import RepeatSpec
from nca_interp.data.specs import TextSpec, TokenizerSpec
from nca_interp.engine.jobs import execute
from nca_interp.engine.plan import make_plan
from nca_interp.head_rule import HeadRule
from nca_interp.report.page import Table
from nca_interp.report.sections.mediation import sections
from nca_interp.report.tables import Tables
from nca_interp.store import StudyDir
from nca_interp.train import setup
from tests.analysis.mediation.planted import CARRIERS, copied_text, only_carriers

RULE = HeadRule(probe="previous_token+induction", k=1)


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("planted")
    study = planted_study(copied_text(folder / "copied.txt"))
    directory = StudyDir(folder / "study")
    directory.claim(study.model_dump(mode="json"), {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "initial_model", only_carriers(setup.initial_model))
        for job in make_plan(study, "fp32", analyze=False).jobs:
            execute(directory.path, job, None)
    for job in make_plan(study, "fp32").jobs:
        if job.id.startswith("mediation:"):
            execute(directory.path, job, None)
    return directory, study


def planted_study(text) -> Study:
    source = TextSpec(source=f"files:{text}", tokenizer=TokenizerSpec(vocab_size=280))
    scratch = Regime(name="scratch", label="scratch", ft=False)
    repeat = Regime(name="repeat", label="repeated tokens", source=RepeatSpec(n_symbols=16, period=(4, 12)), ft=False)
    return Study(
        name="planted", title="Planted",
        model=ModelConfig(n_layers=2, d_model=64, n_heads=4, d_mlp=64, n_ctx=48, embed_std=0.2),
        regimes=(
            scratch, repeat, *mediation_arms(repeat, RULE, 1, name="circuit"), *blinded_arms(repeat, scratch, ("ppt",)),
        ),
        domains=(Domain(name="copied", label="words read twice", source=source),), seeds=paired_seeds(1), val_rows=32,
        ppt=StageConfig(steps=300, batch_size=32, lr=1e-2, weight_decay=0.0, eval_every=100, checkpoints="ends"),
        pt=StageConfig(steps=40, batch_size=16, lr=3e-3, eval_every=40, checkpoints="ends"),
    )  # fmt: skip


def losses(directory: StudyDir) -> dict[str, float]:
    runs = [run for run in directory.all_runs() if run.id.startswith("pt.")]
    return {run.id.split(".")[1]: run.read_metrics()[-1]["val_loss"] for run in runs}


def weights(directory: StudyDir, regime: str, step: int) -> dict[str, torch.Tensor]:
    return load_file(str(directory.run(f"pt.{regime}.copied.s0").checkpoint(step) / "model.safetensors"))


def test_the_rule_finds_the_two_heads_that_were_trained(studied):
    directory, _ = studied
    said = json.loads(
        (directory.path / RULE.model_copy(update={"sets": 1}).file.replace("{parent}", "ppt.repeat.s0")).read_text()
    )
    assert {tuple(head) for head in said["heads"]} == set(CARRIERS)


@pytest.mark.parametrize(("arm", "same"), [
    ("without-circuit", "scratch"), ("only-circuit", "repeat"), ("without-circuit-r1", "repeat"), ("only-circuit-r1", "scratch"),
])  # fmt: skip
def test_without_them_it_is_scratch_and_they_alone_are_full_transfer(studied, arm, same):
    directory, _ = studied
    ours, theirs = (weights(directory, name, 40) for name in (f"repeat-{arm}", same))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_table_gives_them_all_of_the_gain_and_random_heads_none(studied):
    directory, _ = studied
    assert losses(directory)["scratch"] - losses(directory)["repeat"] > 0.04
    rows = build_tables(directory.path)["mediation"]
    trained = rows[(rows.way != "ablated") & (rows.measure == "val_loss")]
    assert set(trained.way) == {"without", "only"}
    for row in trained.itertuples():
        assert row.moved == pytest.approx(row.gain)
        assert row.random == pytest.approx(0.0)
        assert row.sets == 1
        assert row.verdict == "no verdict (one seed)"
    ablated = rows[(rows.way == "ablated") & (rows.measure == "val_loss")].iloc[0]
    assert ablated.sets == 15  # all others of one head in each of two layers of four; some hold one of the carriers
    assert ablated.moved > 2 * ablated.random
    (section,) = sections(Tables(directory.path))
    ids = {item.id for item in section.items if isinstance(item, Table)}
    assert ids == {"tab-mediation", "tab-head-rules", "tab-blinded"}  # one seed: no share to draw


def test_without_the_previous_token_the_same_heads_do_not_become_an_induction_circuit(studied):
    directory, _ = studied
    scores = {}
    for name in ("repeat", "repeat-blind-ppt"):
        found = nca_interp.analyze(directory.run(f"ppt.{name}.s0").checkpoint(300), probes=["induction"])
        scores[name] = found.value.max()
    assert scores["repeat"] > 0.3
    assert scores["repeat-blind-ppt"] < scores["repeat"] / 3
    blinded = build_tables(directory.path)["blinded"]
    assert list(blinded.stages) == ["ppt"]
    assert blinded.removed.iloc[0] == pytest.approx(losses(directory)["repeat-blind-ppt"] - losses(directory)["repeat"])
