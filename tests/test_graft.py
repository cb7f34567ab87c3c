"""What a graft names is checked before anything runs; the plan knows donors and files of heads; old studies load."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from nca_interp.base import UserError
from nca_interp.config import MODULES, Domain, ModelConfig, Regime, StageConfig, Study, paired_seeds
from nca_interp.data.specs import DyckSpec, NcaSpec, TextSpec
from nca_interp.engine.change import alters_no_run
from nca_interp.engine.plan import make_plan
from nca_interp.graft import NOTHING, Graft, HeadFile
from nca_interp.overrides import with_overrides
from nca_interp.swap_policy import SwapPolicy
from nca_interp.train.run import RunConfig

STAGE = StageConfig(steps=10, batch_size=2, lr=1e-3)
NCA = Regime(name="nca", label="NCA", source=NcaSpec(grid=6, n_states=2, band=None))
DYCK = Regime(name="dyck", label="Dyck", source=DyckSpec(k=4), runs={"web": 0})
SCRATCH = Regime(name="scratch", label="scratch")


def study(*regimes: Regime, n_layers=2) -> Study:
    return Study(
        name="tiny", title="t", model=ModelConfig(n_layers=n_layers, d_model=16, n_heads=2, d_mlp=24, n_ctx=64),
        ppt=STAGE, pt=STAGE, seeds=paired_seeds(2), regimes=regimes,
        domains=(Domain(name="web", label="web", source=TextSpec(source="arithmetic:")),),
    )  # fmt: skip


def grafted(regime=NCA, name="arm", **fields):
    more = {key: fields.pop(key) for key in ("keep", "swap") if key in fields}
    return regime.model_copy(update={"name": name, "role": "transfer", "graft": Graft(**fields), **more})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"parts": ("attn", "q")}, "parts: q is named by attn and by q; legal: each parameter once"),
        ({"parts": ("attn", "attn")}, "named by attn and by attn"),
        ({"parts": ("qk", "k")}, "k is named by qk and by k"),
        ({"parts": ("attention",)}, "parts"),
        ({"parts": ("mlp",), "layers": "middle"}, r"'middle'; legal: all, lower, upper, or layers such as 0-2,5"),
        ({"parts": ("mlp",), "layers": "3-1"}, "'3-1'; legal"),
        ({"parts": ("mlp",), "layers": ()}, "layers: none is named"),
        ({"parts": ("mlp",), "layers": (1, 1)}, "layers: one stands there twice"),
        ({"parts": ("mlp",), "layers": (-1,)}, "layers"),
        ({"heads": ("1.0", "1.0")}, "heads: one stands there twice"),
        ({"heads": "1"}, "'1'; legal: layer.head, such as 3.1"),
        ({"parts": ("mlp",), "instead": "donor"}, "donor: no donor is named"),
        ({"parts": ("mlp",), "donor": "dyck"}, "donor: 'dyck' with instead 'initial'"),
        ({"parts": ("mlp",), "matched": 0}, "matched: a random set for heads, and no head is named"),
    ],
)
def test_a_graft_that_contradicts_itself_is_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        Graft(**fields)


@pytest.mark.parametrize(
    ("regime", "message"),
    [
        (grafted(mode="keep"), r"regimes.arm.graft: it names no parameter; legal: parts \(embed, attn"),
        (grafted(instead="permuted"), "it names no parameter"),
        (grafted(SCRATCH, parts=("attn",)), r"attention replaced by initial weights: this regime is trained from scratch"),
        (grafted(parts=("mlp",), keep=("attn",)), r"keep \(attn\) says already what is re-initialised; legal: one of the two"),
        (grafted(parts=("mlp",), layers="1-2"), "regimes.arm.graft.layers: 2; legal: 0 to 1"),
        (grafted(heads="2.0"), r"regimes.arm.graft.heads: 2.0; legal: layers 0 to 1, heads 0 to 1 \(layer.head\)"),
        (grafted(heads="1.2"), "heads: 1.2; legal"),
        (grafted(heads="1.1", parts=("qk",)), r"heads: 1.1 is in the k/q of layer 1, which parts name already"),
        (grafted(heads="1.1", matched=1), r"graft.matched: 1; these layers have 1 such set\(s\); legal: 0 to 0"),
        (grafted(heads="1.0,1.1", matched=0), "no other set; legal: null"),
        (grafted(parts=("embed",)), "embed: the embeddings are drawn anew by the swap policy anyway; legal: with swap.embed=keep"),
        (grafted(parts=("mlp",), instead="donor", donor="dick"), "donor: 'dick' is no regime of the study; legal: dyck"),
        (grafted(parts=("mlp",), instead="donor", donor="scratch"), "a regime from scratch, which has no weights to give"),
        (grafted(parts=("mlp",), instead="donor", donor="nca"), "a regime of the same source"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_before_anything_runs(regime, message):
    with pytest.raises(ValidationError, match=message):
        study(SCRATCH, NCA, DYCK, regime)


def test_one_layer_has_no_lower_half():
    with pytest.raises(ValidationError, match="no lower half"):
        study(grafted(parts=("mlp",), layers="lower"), n_layers=1)
    study(grafted(parts=("mlp",), layers="upper"), n_layers=1)


def test_ways_to_write_layers_and_heads():
    assert Graft(parts=("mlp",), layers="0-2,5").layers == (0, 1, 2, 5)
    assert Graft(parts=("mlp",), layers=3).layers == (3,)
    assert Graft(heads="0.1, 12.10").heads == ((0, 1), (12, 10))
    assert Graft.model_validate_json('{"heads": ["3.1", [0, 2]]}').heads == ((3, 1), (0, 2))
    assert Graft(parts=("mlp",), layers="lower").layer_numbers(5) == (0, 1)
    assert Graft(parts=("mlp",), layers="upper").layer_numbers(5) == (2, 3, 4)
    for graft in (Graft(heads=HeadFile(file="a.json"), matched=2), Graft(parts=("qk",), layers="1-2", mode="keep")):
        assert Graft.model_validate_json(graft.model_dump_json()) == graft


def test_words():
    assert NOTHING.words() == ""
    assert (
        Graft(parts=("attn", "mlp"), layers="lower").words()
        == "attention and MLP of the lower layers replaced by initial weights"
    )
    assert (
        Graft(mode="keep", parts=("norm",), instead="fresh").words() == "only norms carried over, the rest a fresh draw"
    )
    assert (
        Graft(heads="1.0,2.3", matched=3, instead="permuted").words()
        == "random set 3 of the layers of heads 1.0, 2.3 replaced by their own weights, permuted"
    )
    assert (
        Graft(parts=("vo",), layers="0-2,4", instead="donor", donor="dyck").words()
        == "V and O of layers 0-2, 4 replaced by weights of dyck"
    )


def test_the_command_line_reaches_it():
    found = with_overrides(
        study(NCA),
        ['regimes.nca.graft.parts=["attn"]', "regimes.nca.graft.layers=0-1", "regimes.nca.graft.instead=permuted"],
    )
    assert found.regimes[0].graft == Graft(parts=("attn",), layers=(0, 1), instead="permuted")
    with pytest.raises(UserError, match=r"regimes.nca.graft.layers: 5; legal: 0 to 1"):
        with_overrides(study(NCA), ['regimes.nca.graft.parts=["attn"]', "regimes.nca.graft.layers=5"])
    assert with_overrides(study(NCA), ['regimes.nca.graft.heads=["1.0"]']).regimes[0].graft.heads == ((1, 0),)
    with pytest.raises(UserError, match=r"1.1: a number does not tell head 1 from 10"):
        with_overrides(study(NCA), ["regimes.nca.graft.heads=1.10"])


def test_arms_share_the_pre_pre_training_and_wait_for_the_donors():
    arms = grafted(parts=("mlp",)), grafted(name="gift", parts=("mlp",), instead="donor", donor="dyck")
    plan = make_plan(study(SCRATCH, NCA, DYCK, *arms), "fp32", analyze=False)
    runs = {run.id: run for run in plan.runs}
    needs = {job.id: job.needs for job in plan.jobs}
    assert sum(run.stage == "ppt" for run in plan.runs) == 4  # NCA and Dyck of two seeds
    assert runs["pt.gift.web.s1"].donor == "ppt.dyck.s1"
    assert {"train:ppt.nca.s1", "train:ppt.dyck.s1"} <= set(needs["train:pt.gift.web.s1"])
    assert runs["pt.arm.web.s0"].donor is None
    order = [job.id for job in plan.jobs]
    assert all(order.index(need) < order.index(job) for job, before in needs.items() for need in before)


def test_every_seed_has_its_own_file_of_heads():
    arm = grafted(heads=HeadFile(file="heads/induction.{parent}.json"))
    runs = make_plan(study(NCA, arm), "fp32", analyze=False).runs
    assert [run.graft.heads.file for run in runs if run.regime == "arm"] == [
        "heads/induction.ppt.nca.s0.json", "heads/induction.ppt.nca.s1.json",
    ]  # fmt: skip


def test_a_study_and_a_run_that_were_saved_before_there_were_grafts_load():
    before = study(SCRATCH, NCA)
    saved = before.model_dump(mode="json")
    for regime in saved["regimes"]:
        del regime["graft"]
    assert Study.model_validate(saved) == before
    run = make_plan(before, "fp32", analyze=False).runs[-1]
    old = run.model_dump(mode="json")
    del old["graft"], old["donor"]
    assert RunConfig.model_validate(old) == run
    assert alters_no_run(saved, study(SCRATCH, NCA, grafted(parts=("mlp",))).model_dump(mode="json"), "fp32")
    assert not alters_no_run(saved, study(SCRATCH, grafted(name="nca", parts=("mlp",))).model_dump(mode="json"), "fp32")


def test_embeddings_are_a_part_where_they_are_kept():
    text = NCA.model_copy(update={"source": TextSpec(source="arithmetic:")})
    arm = grafted(text, parts=("embed",), swap=SwapPolicy(embed="keep"))
    assert study(arm).regimes[0].graft.parts == ("embed",)
    assert set(arm.keep) == set(MODULES)
