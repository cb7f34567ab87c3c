"""A study whose regimes start from a checkpoint of any family: a head that writes nothing is missed by nothing, arms that are one are one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from nca_interp.analysis.collection.collection import Collection
from nca_interp.checkpoint_spec import CheckpointSpec
from nca_interp.config import Domain, Regime, StageConfig, Study, paired_seeds
from nca_interp.data.specs import TextSpec, TokenizerSpec
from nca_interp.engine.jobs import execute
from nca_interp.engine.plan import make_plan, measure_jobs
from nca_interp.model.parent import parent_of
from nca_interp.store import StudyDir
from tests.model.families import saved

SILENT = (1, 2)
"""Layer and head whose output projection is zero in the checkpoint."""
WIDTH = 8
OUTPUTS = {
    "gpt2": ("transformer.h.1.attn.c_proj", 0),
    "neox": ("gpt_neox.layers.1.attention.dense", 1),
    "qwen2": ("model.layers.1.self_attn.o_proj", 1),
    "llama-gqa": ("model.layers.1.self_attn.o_proj", 1),
}
"""By family, the output projection of that layer and which axis of its weight is heads."""
CAUSES = {"causes": {"stages": ("ablation", "weights"), "metric": ("own_loss", "repeated_token_loss"), "sequences": 4}}


def silenced(family, folder):
    """A checkpoint of the family with one silent head."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(saved(family, folder))
    name, axis = OUTPUTS[family]
    with torch.no_grad():
        model.get_submodule(name).weight.narrow(axis, SILENT[1] * WIDTH, WIDTH).zero_()
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", params=list(OUTPUTS))
def collection(request, tmp_path_factory):
    """Scratch and two arms that carry all of one checkpoint over, trained so little that the silent head stays silent."""
    folder = tmp_path_factory.mktemp(request.param)
    place = silenced(request.param, folder / "parent")
    full = Regime(name="full", label="full", source=CheckpointSpec(paths=(place,)))
    stage = StageConfig(
        steps=2, batch_size=2, lr=1e-7, weight_decay=0, eval_every=2, checkpoint_every=2, checkpoints="ends"
    )
    text = TextSpec(source="arithmetic:", tokenizer=TokenizerSpec(vocab_size=300), max_bytes=30_000)
    study = Study(
        name="families", title="Families", model=parent_of(place).model.model_copy(update={"n_ctx": 48}), val_rows=8,
        ppt=stage, pt=stage, seeds=paired_seeds(1), domains=(Domain(name="web", label="web", source=text),),
        regimes=(Regime(name="scratch", label="scratch"), full, full.model_copy(update={"name": "again"})),
    )  # fmt: skip
    directory = StudyDir(folder / "study")
    directory.claim(study.model_dump(mode="json"), {"command": "test"})
    for job in make_plan(study, "fp32", analyze=False).jobs:
        execute(directory.path, job, None)
    found = Collection.open(directory.path)
    for job in measure_jobs(found.runs, ["causes", "compare"], CAUSES, collection=found, only=True):
        execute(directory.path, job, None)
    return found


def test_a_silent_head_is_missed_by_nothing_and_copies_nothing(collection):
    run = collection.by_id["pt.full.web.s0"]
    rows = pd.read_csv(run.kept("causes", 2))
    alone = rows[rows["probe"] == "ablation"].set_index(["layer", "head"])
    assert set(alone.metric) == {"own_loss", "repeated_token_loss"}
    for _, effects in alone.groupby("metric"):
        assert len(effects) == 8
        assert abs(effects.value[SILENT]) < 1e-6
        assert effects.value.drop(SILENT).abs().min() > 10 * abs(effects.value[SILENT])
    written = rows[rows["probe"] == "v_composition"]
    assert len(written) == 16, "each head of the first layer into each of the second"
    assert run.kept("causes", 2).with_suffix(".json").is_file()


def test_arms_that_are_one_are_one_inside_scratch_is_another_and_the_silent_head_is_seen(collection):
    later = max((collection.by_id[f"pt.{name}.web.s0"] for name in ("full", "again")), key=collection.runs.index)
    alike = pd.read_csv(later.kept_whole("compare", "similarity"))
    pairs = alike[(alike.comparison == "regimes") & alike.layer_a.eq(alike.layer_b)]
    same = pairs[~(pairs.regime_a.eq("scratch") | pairs.regime_b.eq("scratch"))]
    assert len(same) == 3
    np.testing.assert_allclose(same.value, 1, atol=1e-6)
    assert (pairs[pairs.regime_a.eq("scratch") | pairs.regime_b.eq("scratch")].query("layer_a > 0").value < 0.999).all()
    norms = pd.read_csv(later.kept_whole("compare", "head_norms"))
    written = norms[norms.step.eq(2)].set_index(["layer", "head"]).ov_norm
    assert written[SILENT] < 1e-3 * written.drop(SILENT).min()
