"""Families of arms in a line: which they are, that each is compared with what it should be, and which budgets they have."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from nca_interp.analysis.verdicts.plan import contrasts_of, full_of
from nca_interp.arms import (
    amounts,
    control_arms,
    head_arms,
    layer_arms,
    matched_scratch,
    necessity_arms,
    once,
    shapley_arms,
    sufficiency_arms,
    swap_arms,
    tuned_scratch,
)
from nca_interp.base import UserError
from nca_interp.config import Domain, ModelConfig, Regime, StageConfig, Study, paired_seeds, reinit_arms
from nca_interp.data.specs import DyckSpec, NcaSpec, TextSpec, TokenizerSpec
from nca_interp.data.tokens import TokenFile, write_tokens
from nca_interp.engine.plan import make_plan
from nca_interp.engine.vocabulary import vocab
from nca_interp.graft import Graft, HeadFile
from nca_interp.overrides import with_overrides
from nca_interp.swap_policy import TODAY, SwapPolicy

PPT = StageConfig(steps=30, batch_size=4, lr=1e-3)
PT = StageConfig(steps=20, batch_size=2, lr=1e-3)
TEXT = TextSpec(source="arithmetic:")
NCA = Regime(name="nca", label="NCA", source=NcaSpec(grid=6, n_states=2, band=None))
DYCK = Regime(name="dyck", label="Dyck", source=DyckSpec(k=4))
PROSE = Regime(name="prose", label="prose", source=TEXT)
SCRATCH = Regime(name="scratch", label="scratch")


def study(*regimes: Regime, pt=PT) -> Study:
    """Checked as a recipe's result is."""
    made = Study(
        name="tiny", title="t", model=ModelConfig(n_layers=4, d_model=16, n_heads=4, d_mlp=24, n_ctx=64), ppt=PPT, pt=pt,
        seeds=paired_seeds(3), regimes=(SCRATCH, NCA, DYCK), domains=(Domain(name="web", label="web", source=TEXT),),
    )  # fmt: skip
    return with_overrides(made.model_copy(update={"regimes": (SCRATCH, NCA, DYCK, *regimes)}), [])


def compared(*regimes: Regime) -> list[tuple[str, str]]:
    return [(c.treated, c.control) for c in contrasts_of(study(*regimes)) if c.family == "transfer"]


def test_necessity_is_compared_with_full_transfer_and_sufficiency_with_scratch():
    arms = (
        *necessity_arms(NCA, ["qk", "attn+mlp"], ["all", "upper"]),
        *sufficiency_arms(NCA, ["mlp"], [0, "1-2"], to="fresh"),
    )
    assert [a.name for a in arms] == [
        "nca-no-qk", "nca-no-qk-upper", "nca-no-attn-mlp", "nca-no-attn-mlp-upper", "nca-only-mlp-l0-fresh", "nca-only-mlp-l1-2-fresh",
    ]  # fmt: skip
    assert arms[1].label == "NCA: Q and K of the upper layers re-initialised"
    assert arms[-1].label == "NCA: only MLP of layers 1-2 kept, else a fresh draw"
    assert compared(*arms) == [(a.name, "nca" if "-no-" in a.name else "scratch") for a in arms]
    assert {(a.role, a.ft, a.checkpoints) for a in arms} == {("transfer", False, "ends")}


def test_shapley_arms_are_the_sets_between_all_and_nothing():
    arms = shapley_arms(NCA)
    kept = {
        frozenset(a.graft.parts if a.graft.mode == "keep" else {"attn", "mlp", "norm"} - set(a.graft.parts))
        for a in arms
    }
    assert sorted(map(len, kept)) == [1, 1, 1, 2, 2, 2]
    other = NCA.model_copy(update={"swap": SwapPolicy(embed="match_rms")})
    assert [a.name for a in shapley_arms(other)][-1] == "nca-no-attn-mlp-norm"
    assert len(shapley_arms(NCA, to="fresh")) == 7
    assert once(*necessity_arms(NCA), *shapley_arms(NCA), *sufficiency_arms(NCA)) == arms
    with pytest.raises(UserError, match="two arms are named nca-no-attn, and they are not the same"):
        once(*necessity_arms(NCA), *necessity_arms(NCA, runs={"web": 1}))


def test_controls_are_compared_with_both():
    arms = control_arms(NCA, ("permuted", "norms"), donors=())
    assert [a.name for a in arms] == ["nca-permuted-attn-mlp-norm", "nca-no-norm"]
    gift = control_arms(NCA, (), "attn", ["dyck"])
    assert gift[0].label == "NCA: attention replaced by weights of dyck"
    assert compared(arms[0], *gift) == [(a, c) for a in (arms[0].name, "nca-attn-of-dyck") for c in ("nca", "scratch")]
    with pytest.raises(
        UserError, match="attn\\+mlp\\+norm is the whole body, and with a donor's that is the donor's own regime"
    ):
        control_arms(NCA, donors=["dyck"])
    with pytest.raises(ValidationError, match="parts"):
        necessity_arms(NCA, ["attention"])
    with pytest.raises(ValidationError, match="layers"):
        necessity_arms(NCA, layers=["top"])
    with pytest.raises(UserError, match="regimes.nca-no-mlp-l4.graft.layers: 4; legal: 0 to 3"):
        study(*layer_arms(NCA, 5, parts=["mlp"]))


def test_a_head_set_has_its_random_sets():
    arms = head_arms(NCA, "induction", ((1, 0), (2, 3)), 4, "keep")
    assert [a.name for a in arms] == ["nca-only-induction", *(f"nca-only-induction-random-{n}" for n in range(4))]
    assert compared(*arms) == [(a.name, "scratch") for a in arms]
    filed = head_arms(NCA, "prev", HeadFile(file="heads/prev.{parent}.json"), 1)
    assert [a.graft.matched for a in filed] == [None, 0]
    study(*filed)


def test_each_arm_has_the_full_transfer_of_its_own_swap_policy():
    other = swap_arms(NCA, {"rms": SwapPolicy(embed="match_rms")})[0]
    arms = (*necessity_arms(NCA, ["mlp"]), *necessity_arms(other, ["mlp"]))
    made = study(other, *arms)
    assert [full_of(made, made.regime(a.name)).name for a in arms] == ["nca", "nca-rms"]
    with pytest.raises(
        UserError, match="regimes.nca-rms-no-mlp.graft: .*no regime carries over everything of the same source"
    ):
        contrasts_of(study(*necessity_arms(other, ["mlp"])))


def test_older_arms_are_compared_as_they_were():
    old = [(a.name, c) for c in ("nca", "scratch") for a in reinit_arms(NCA, {"web": 3})]
    assert compared(*reinit_arms(NCA, {"web": 3})) == old


def test_a_further_arm_leaves_every_other_comparison_as_it_is():
    before, after = (contrasts_of(study(*arms)) for arms in ((), shapley_arms(NCA)))
    assert [c for c in after if c in before] == before
    assert len(after) == len(before) + 6


def test_what_keeps_its_embeddings_draws_none():
    drawn = SwapPolicy(embed_std=1.0, unembed_std=0.1, freeze_body=3)
    (kept,) = (arm for arm in amounts(PROSE.model_copy(update={"swap": drawn}), PPT, (1,)) if arm.name.endswith("kept"))
    assert SwapPolicy.model_validate(kept.swap.model_dump()) == SwapPolicy(embed="keep", freeze_body=3)


def test_amounts_of_text():
    arms = amounts(PROSE, PPT, (1, 10))
    assert [(a.name, study(PROSE, *arms).ppt_of(a).steps, a.swap.embed, a.role) for a in arms] == [
        ("prose-kept", 30, "keep", "control"), ("prose-x10", 300, "normal", "control"), ("prose-x10-kept", 300, "keep", "control"),
    ]  # fmt: skip
    assert arms[0].label == "prose, token-matched, embeddings kept"
    runs = make_plan(study(PROSE, *arms), "fp32", analyze=False).runs
    assert len({r.id for r in runs if r.stage == "ppt"}) == 3 * (2 + 2)  # NCA, Dyck, prose of two budgets
    with pytest.raises(UserError, match="regimes.nca-kept.swap.embed: rows cannot be kept on web"):
        study(*amounts(NCA, PPT, (1,)))


def test_scratch_with_the_synthetic_budget_added_is_matched_in_what_it_says():
    made = study(*matched_scratch(NCA, ("tokens", "flops")))
    runs = {(r.regime, r.stage): r for r in make_plan(made, "fp32", analyze=False).runs if r.seed == 0}

    def spent(regime, unit):
        both = [runs[key] for key in ((regime, "ppt"), (regime, "pt")) if key in runs]
        return sum(
            r.config.steps
            * r.config.batch_size
            * r.model.n_ctx
            * (r.model.flops_per_token(vocab(r)) if unit == "flops" else 1)
            for r in both
        )

    assert spent("scratch-and-tokens", "tokens") == spent("nca", "tokens") != spent("scratch", "tokens")
    step = spent("scratch", "flops") / PT.steps
    assert 0 <= spent("scratch-and-flops", "flops") - spent("nca", "flops") < step
    assert runs["scratch-and-tokens", "pt"].config.steps == 20 + 60
    assert {(c.treated, c.control) for c in contrasts_of(made) if c.family == "regime"} >= {
        ("nca", "scratch-and-tokens")
    }


def test_a_horizon_is_stretched_with_the_budget():
    made = study(*matched_scratch(NCA), pt=PT.model_copy(update={"horizon": 40}))
    (run,) = [
        r for r in make_plan(made, "fp32", analyze=False).runs if r.regime == "scratch-and-tokens" and r.seed == 0
    ]
    assert (run.config.steps, run.config.horizon) == (80, 160)


@pytest.mark.parametrize(("regime", "message"), [
    (NCA.model_copy(update={"name": "x", "adds": "dyck"}), "regimes.x.adds: 'dyck': this regime has a pre-pre-training of its own"),
    (Regime(name="x", label="x", adds="scratch"), "regimes.x.adds: 'scratch' is no regime with a pre-pre-training"),
    (Regime(name="x", label="x", adds="dick"), "did you mean 'dyck'"),
])  # fmt: skip
def test_only_scratch_adds_only_what_there_is(regime, message):
    with pytest.raises((UserError, ValidationError), match=message):
        study(regime)


def test_the_best_scratch_is_chosen_among_equal_budgets():
    made = study(*tuned_scratch(), *matched_scratch(NCA))
    runs = {r.regime: r.config for r in make_plan(made, "fp32", analyze=False).runs if r.stage == "pt"}
    assert [runs[f"scratch{end}"].lr for end in ("", "-lr-0-5", "-lr-2")] == [1e-3, 5e-4, 2e-3]
    assert ("nca", "best scratch") in {(c.treated, c.control) for c in contrasts_of(made)}
    swapped = study(*tuned_scratch(), *swap_arms(NCA, {"shrunk": SwapPolicy(body_scale="shrink_to_initial")}))
    assert ("nca-shrunk", "scratch") in {(c.treated, c.control) for c in contrasts_of(swapped) if c.family == "swap"}
    from nca_interp.analysis.verdicts.plan import scratch_arms_of

    assert [r.name for r in scratch_arms_of(made, "web")] == ["scratch", "scratch-lr-0-5", "scratch-lr-2"]


def test_another_budget_is_measured_on_the_same_validation_rows(tmp_path):
    """Or a scratch with more tokens could not be compared."""
    small = TextSpec(source="arithmetic:", tokenizer=TokenizerSpec(vocab_size=300), max_bytes=30_000)
    for name, n in (("short", 8), ("long", 40)):
        write_tokens(tmp_path / name, small, n_train=n, n_val=8, seq_len=64, seed=0)
    short, long = (TokenFile.open(tmp_path / name) for name in ("short", "long"))
    assert (short.val == long.val).all()
    assert (tmp_path / "short" / "tokenizer.json").read_bytes() == (tmp_path / "long" / "tokenizer.json").read_bytes()


def test_nothing_said_is_nothing_done():
    assert NCA.graft == Graft()
    assert NCA.swap == TODAY
    assert make_plan(study(), "fp32", analyze=False).runs[0].graft == Graft()
