"""A policy is refused before anything runs where a regime cannot do what it says; arms share what comes before the swap."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from nca_interp.arms import scratch_arms, stds, swap_arms
from nca_interp.base import UserError
from nca_interp.config import Domain, ModelConfig, Regime, StageConfig, Study, paired_seeds, reinit_arms
from nca_interp.data.specs import DyckSpec, NcaSpec, TextSpec, TokenizerSpec
from nca_interp.engine.change import alters_no_run
from nca_interp.engine.plan import make_plan
from nca_interp.overrides import with_overrides
from nca_interp.swap_policy import SwapPolicy

STAGE = StageConfig(steps=10, batch_size=2, lr=1e-3)
GPT2 = TokenizerSpec(kind="hf", name="gpt2")
NCA = Regime(name="nca", label="NCA", source=NcaSpec(grid=6, n_states=2, band=None))
SCRATCH = Regime(name="scratch", label="scratch")


def study(*regimes: Regime, tokenizer=None, pt=STAGE, **changes) -> Study:
    text = TextSpec(source="arithmetic:", tokenizer=tokenizer or TokenizerSpec())
    model = ModelConfig(n_layers=1, d_model=16, n_heads=2, d_mlp=24, n_ctx=64, tied=changes.pop("tied", False))
    return Study(
        name="tiny", title="t", model=model, ppt=STAGE, pt=pt, seeds=paired_seeds(2), regimes=regimes,
        domains=(Domain(name="web", label="web", source=text),), **changes,
    )  # fmt: skip


def under(regime: Regime, **fields) -> Regime:
    return regime.model_copy(update={"swap": SwapPolicy(**fields)})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"embed": "match_rms"},
            r"regimes.scratch.swap.embed: 'match_rms' needs a parent.*from scratch.*legal: normal",
        ),
        ({"embed": "match_gaussian"}, "swap.embed: 'match_gaussian' needs a parent"),
        ({"embed": "resample"}, "swap.embed: 'resample' needs a parent"),
        ({"embed": "keep"}, "swap.embed: 'keep' needs a parent"),
        ({"unembed": "resample"}, "swap.unembed: 'resample' needs a parent"),
        ({"freeze_body": 3}, r"swap.freeze_body: 3 needs a parent.*legal: 0"),
        ({"body_scale": "reset_norms"}, r"swap.body_scale: 'reset_norms' needs a parent.*legal: as_is"),
        ({"body_scale": "shrink_to_initial"}, "swap.body_scale: 'shrink_to_initial' needs a parent"),
    ],
)
def test_what_needs_a_parent_is_refused_of_scratch_and_taken_of_a_source(fields, message):
    with pytest.raises(ValidationError, match=message):
        study(under(SCRATCH, **fields))
    if "keep" not in fields.values():
        study(SCRATCH, under(NCA, **fields))


@pytest.mark.parametrize("fields", [{"embed_std": 1.0}, {"embed_std": 3.0, "unembed_std": 0.02}, {"tied": True}])
def test_scratch_takes_every_normal_embedding(fields):
    run = make_plan(study(under(SCRATCH, **fields)), "fp32", analyze=False).runs[0]
    for name, value in fields.items():
        assert getattr(run.model, name) == value


def test_a_body_is_frozen_for_no_more_steps_than_there_are():
    assert study(under(NCA, freeze_body=10)).regimes[0].swap.freeze_body == 10
    with pytest.raises(ValidationError, match=r"regimes.nca.swap.freeze_body: 11 steps are more than pre-training on web has; legal: 0 to 10"):  # fmt: skip
        study(under(NCA, freeze_body=11))
    none = under(NCA, freeze_body=11).model_copy(update={"runs": {"web": 0}})
    study(SCRATCH, none)  # it is not trained there


def test_the_same_through_the_command_line():
    with pytest.raises(
        UserError, match=r"regimes.nca.swap.freeze_body: 11 steps are more than pre-training on web has"
    ):
        with_overrides(study(under(NCA)), ["regimes.nca.swap.freeze_body=11"])
    found = with_overrides(
        study(under(NCA)), ["regimes.nca.swap.embed_std=1.0", "regimes.nca.swap.body_scale=shrink_to_initial"]
    )
    assert found.regimes[0].swap == SwapPolicy(embed_std=1.0, body_scale="shrink_to_initial")


@pytest.mark.parametrize(
    ("source", "tokenizer", "message"),
    [
        (NCA.source, None, "rows cannot be kept on web, whose vocabulary is not that of the nca tokens; legal: normal"),
        (DyckSpec(k=8), None, "whose vocabulary is not that of the dyck tokens"),
        (TextSpec(source="site:code", tokenizer=GPT2), None, "whose tokenizer is another one"),
        (TextSpec(source="site:code"), None, r"whose BPE is trained on another corpus \(a named tokenizer"),
        (TextSpec(source="site:code", tokenizer=GPT2), GPT2, ""),
        (TextSpec(source="arithmetic:"), None, ""),
    ],
)
def test_rows_are_kept_where_vocabularies_agree_only(source, tokenizer, message):
    regime = under(Regime(name="c4", label="C4", source=source), embed="keep")
    if not message:
        assert study(regime, tokenizer=tokenizer).regimes[0].swap.embed == "keep"
        return
    with pytest.raises(ValidationError, match=f"regimes.c4.swap.embed: .*{message}"):
        study(regime, tokenizer=tokenizer)


def test_rows_that_one_stage_pads_are_not_kept():
    regime = under(Regime(name="c4", label="C4", source=TextSpec(source="site:code", tokenizer=GPT2)), embed="keep")
    with pytest.raises(ValidationError, match=r"pt.vocab_rows and ppt.vocab_rows differ"):
        study(regime, tokenizer=GPT2, pt=STAGE.model_copy(update={"vocab_rows": 64_000}))


def test_a_tied_model_has_no_unembedding_to_draw():
    with pytest.raises(
        ValidationError, match=r"regimes.nca.swap.unembed: model.tied is true.*legal: null, or swap.tied=false"
    ):
        study(under(NCA, unembed_std=0.1), tied=True)
    study(under(NCA, unembed_std=0.1, tied=False), tied=True)


def test_all_arms_of_a_source_share_one_pre_pre_training():
    policies = stds([1.0, 0.07]) | {
        "untied": SwapPolicy(tied=True), "frozen": SwapPolicy(freeze_body=5),
        "shrunk": SwapPolicy(body_scale="shrink_to_initial", embed="match_rms"),
    }  # fmt: skip
    arms = (*swap_arms(NCA, policies), *reinit_arms(NCA, {"web": 2}))
    alone = make_plan(study(NCA), "fp32", analyze=False).runs
    for regimes in ((NCA, *arms), (*arms, NCA)):  # whichever comes first
        runs = make_plan(study(SCRATCH, *regimes), "fp32", analyze=False).runs
        before = [run for run in runs if run.stage == "ppt"]
        assert len(before) == 2
        parents = {run.seed: run.id for run in before}
        language = [run for run in runs if run.stage == "pt" and run.regime != "scratch"]
        assert len(language) == 2 * len(regimes)
        assert all(run.parent == parents[run.seed] for run in language)
        like = {"id": "", "regime": "", "label": "", "role": "", "tokens": ""}
        assert [r.model_copy(update=like) for r in before] == [
            r.model_copy(update=like) for r in alone if r.stage == "ppt"
        ]
    assert [run.swap for run in language if run.regime == "nca-frozen"] == [SwapPolicy(freeze_body=5)] * 2
    assert {run.model.tied for run in language if run.regime == "nca-untied"} == {True}
    assert all(run.model.embed_std == 0.02 for run in before)


def test_an_empty_policy_and_a_further_arm_alter_no_run_and_a_policy_does():
    base = study(SCRATCH, NCA)
    for other, same in (
        (study(SCRATCH, under(NCA)), True),
        (study(SCRATCH, NCA, *swap_arms(NCA, stds([1.0]))), True),
        (study(SCRATCH, under(NCA, embed_std=1.0)), False),
    ):
        assert alters_no_run(base.model_dump(mode="json"), other.model_dump(mode="json"), "fp32") is same


def test_a_study_that_was_saved_before_there_were_policies_loads():
    saved = study(SCRATCH, NCA).model_dump(mode="json")
    for regime in saved["regimes"]:
        del regime["swap"]
    assert Study.model_validate(saved) == study(SCRATCH, NCA)


def test_arms_are_named_by_their_policy():
    arms = swap_arms(NCA, stds([0.02, 1.0]), {"web": 1})
    assert [(a.name, a.label, a.role, a.runs, a.ft) for a in arms] == [
        ("nca-std-0-02", "NCA, std-0-02", "swap", {"web": 1}, False), ("nca-std-1", "NCA, std-1", "swap", {"web": 1}, False),
    ]  # fmt: skip
    assert [(a.name, a.role) for a in scratch_arms([1.0])] == [("scratch", "regime"), ("scratch-std-1", "control")]
    study(*scratch_arms([1.0]), NCA, tied=True)
