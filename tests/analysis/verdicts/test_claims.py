"""Claims: which ones a study can speak to, what is said of each on planted numbers, how often by chance."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nca_interp.analysis.verdicts.claims import CONTRADICTED, OPEN, SAME, SUPPORTED, UNKNOWN, claims_table
from nca_interp.analysis.verdicts.contrasts import Values, contrast_tables
from nca_interp.analysis.verdicts.judge import INTERIM
from nca_interp.analysis.verdicts.not_tested import NOT_FINISHED, NOT_MEASURED, NOT_PLANNED
from nca_interp.analysis.verdicts.plan import Contrast
from nca_interp.analysis.verdicts.standard_claims import standard
from nca_interp.claims import Claim, check_claims
from nca_interp.config import Study
from nca_interp.discover import find

ROLES = {
    "scratch": "regime", "nca": "regime", "c4": "regime", "scratch-wide": "control", "nca-wide": "swap",
    "nca-reinit-attn": "transfer", "nca-reinit-mlp": "transfer",
}  # fmt: skip


def _study(*claims: Claim, margin: float = 0.01) -> Any:
    regimes = [
        SimpleNamespace(name=name, label=name, role=role, source=None if "scratch" in name else "data")
        for name, role in ROLES.items()
    ]
    return SimpleNamespace(
        name="own", regimes=regimes, domains=[SimpleNamespace(name="web", qa=None)], claims=claims, margin=margin
    )


def _tables(means: dict[str, float], n: int = 6, sd: float = 0.002, seed: int = 0) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    rows = [
        {"domain": "web", "regime": r, "seed": s, "value": 4 + mean + sd * rng.normal()} for r, mean in means.items() for s in range(n)
    ]  # fmt: skip
    roles = {r: ROLES[r] for r in means}
    found = contrast_tables(roles, {"web": "web"}, Values(pd.DataFrame(rows), "val_loss", 0.01), None)
    pairs, frame = found["pairs"], pd.DataFrame(rows)
    if "nca-wide" in means:  # swap arms are planned by the recipe, not by roles alone
        wide = (
            frame[frame.regime == "nca-wide"].value.to_numpy() - frame[frame.regime == "scratch-wide"].value.to_numpy()
        )
        more = [
            {
                "family": "swap",
                "domain": "web",
                "metric": "val_loss",
                "treated": "nca-wide",
                "control": "scratch-wide",
                "seed": s,
                "difference": d,
            }
            for s, d in enumerate(wide)
        ]
        found["pairs"] = pd.concat([pairs, pd.DataFrame(more)])
    return {
        **found,
        "speedups": pd.DataFrame(columns=["domain", "regime", "budget", "n", "speedup", "low", "high", "sentence"]),
    }


def _verdict(claim: Claim, tables: dict[str, pd.DataFrame], **study: Any) -> Any:
    (row,) = claims_table(_study(claim, **study), tables).itertuples()
    return row


HELPS = Claim(name="helps", says="it helps", kind="lower_loss", treated="nca", control="scratch")
DEPENDS = Claim(
    name="d",
    says="it depends",
    kind="depends_on_swap",
    treated="nca",
    control="scratch",
    other=("nca-wide", "scratch-wide"),
)
CARRIES = Claim(name="c", says="attention", kind="part_carries", treated="nca-reinit-attn", control="nca-reinit-mlp")
FASTER = Claim(name="f", says="faster", kind="faster", treated="nca", control="scratch")


@pytest.mark.parametrize(
    ("effect", "word"), [(-0.05, SUPPORTED), (0.05, CONTRADICTED), (0.0, SAME), (-0.005, "supported, negligibly")]
)
def test_a_claim_on_losses_is_its_planned_contrast(effect, word):
    row = _verdict(HELPS, _tables({"scratch": 0.0, "nca": effect}, sd=0.0005))
    assert row.verdict == word
    assert row.effect == pytest.approx(effect, abs=0.002)
    assert "stays without any one" in row.change


def test_an_open_claim_says_how_many_seeds_it_would_take():
    tables = _tables({"scratch": 0.0, "nca": -0.02}, n=4, sd=0.02, seed=3)
    row = _verdict(HELPS, tables)
    assert row.verdict == OPEN
    needed = int(row.change.split("about ")[1].split()[0])
    assert needed > 4
    found = sum(
        _verdict(HELPS, _tables({"scratch": 0.0, "nca": row.effect}, n=needed, sd=_sd(tables) / math.sqrt(2), seed=s)).verdict.startswith(SUPPORTED)
        for s in range(60)
    )  # fmt: skip
    assert found / 60 >= 0.8 - 3 * math.sqrt(0.8 * 0.2 / 60)


def _sd(tables: dict[str, pd.DataFrame]) -> float:
    return float(tables["pairs"].difference.std(ddof=1))


@pytest.mark.parametrize(("wide", "word"), [(0.0, SUPPORTED), (-0.1, SAME)])
def test_whether_an_effect_depends_on_the_swap_is_a_difference_of_differences(wide, word):
    row = _verdict(DEPENDS, _tables({"scratch": 0.0, "nca": -0.1, "scratch-wide": 0.3, "nca-wide": 0.3 + wide}))
    assert row.verdict == word
    assert row.effect == pytest.approx(wide + 0.1, abs=0.005)
    assert row.n == 6


def test_a_part_carries_only_what_is_there():
    arms = {"nca-reinit-attn": 0.08, "nca-reinit-mlp": 0.01}
    gain = _tables({"scratch": 0.1, "nca": 0.0, **arms})
    assert _verdict(CARRIES, gain).verdict == SUPPORTED
    assert (
        _verdict(
            CARRIES, _tables({"scratch": 0.1, "nca": 0.0, "nca-reinit-attn": 0.01, "nca-reinit-mlp": 0.08})
        ).verdict
        == CONTRADICTED
    )
    nothing = _verdict(CARRIES, _tables({"scratch": -0.1, "nca": 0.0, **arms}))
    assert nothing.verdict == UNKNOWN
    assert "no gain over scratch" in nothing.sentence


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(1.2, 1.9, SUPPORTED), (0.3, 0.9, CONTRADICTED), (0.8, 1.6, OPEN), (math.nan, math.nan, UNKNOWN)],
)
def test_faster_is_the_interval_of_the_speed_up(low, high, word):
    rows = [
        {
            "domain": "web",
            "regime": "nca",
            "budget": b,
            "n": 3,
            "speedup": v,
            "low": low,
            "high": high,
            "sentence": "told",
        }
        for b, v in (("pt", 1.4), ("pt+ppt", 0.5))
    ]
    row = _verdict(FASTER, {**_tables({"scratch": 0.0, "nca": 0.0}), "speedups": pd.DataFrame(rows)})
    assert (row.verdict, row.zero) == (word, 1.0)
    assert "0.50 times" in row.change


@pytest.mark.parametrize(
    ("claim", "others"),
    [(DEPENDS, {"scratch-wide": 0.1, "nca-wide": 0.0}), (CARRIES, {"nca-reinit-attn": 0.0, "nca-reinit-mlp": 0.0})],
    ids=["depends", "carries"],
)
def test_claims_judged_here_are_wrong_at_most_once_in_twenty(claim, others):
    studies, said = 120, 0
    for seed in range(studies):
        row = _verdict(claim, _tables({"scratch": 0.1, "nca": 0.0, **others}, n=4, sd=0.02, seed=seed))
        said += row.verdict in (SUPPORTED, CONTRADICTED)
    assert said / studies <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / studies)


def test_what_cannot_be_tested_says_why():
    load = Claim(name="l", says="load", kind="heads_load_bearing", treated="nca")
    row = _verdict(load, _tables({"scratch": 0.0, "nca": 0.0}))
    assert row.verdict == NOT_MEASURED
    assert "--causes" in row.sentence
    one = _tables({"scratch": 0.0, "nca": -0.1}, n=1)
    assert _verdict(HELPS, one).verdict == UNKNOWN


@pytest.mark.parametrize(
    ("word", "state", "verdict"),
    [
        ("load-bearing", "reached", SUPPORTED), ("load-bearing, negligibly", "reached", SUPPORTED), ("not load-bearing", "reached", CONTRADICTED),
        ("inconclusive", "reached", OPEN), ("cannot tell with 4 heads a layer and 2 seeds", "reached", UNKNOWN), ("not load-bearing", "never", UNKNOWN),
    ],
)  # fmt: skip
def test_heads_that_never_formed_can_carry_nothing(word, state, verdict):
    same = {"domain": "web", "stage": "pt", "regime": "nca", "probe": "induction"}
    numbers = {
        "metric": "repeated_token_loss",
        "effect": 0.1,
        "excess": 0.1,
        "low": 0.0,
        "high": 0.2,
        "seeds": 3,
        "at": "1.2",
        "verdict": word,
    }
    tables = {
        **_tables({"scratch": 0.0, "nca": 0.0}),
        "top_sets": pd.DataFrame([same | numbers]),
        "emergence": pd.DataFrame([same | {"state": state}]),
    }
    row = _verdict(Claim(name="l", says="load", kind="heads_load_bearing", treated="nca"), tables)
    assert row.verdict == verdict
    assert ("No induction head formed" in row.sentence) is (state == "never")


def test_heads_repeat_the_words_of_their_tables():
    timing = pd.DataFrame(
        [
            {
                "stage": "pt",
                "probe": "induction",
                "budget": "pt",
                "treated": "nca",
                "control": "scratch",
                "domain": "web",
                "verdict": word,
                "effect": -math.inf,
                "low": -math.inf,
                "high": 1.0,
                "n": 3,
                "sentence": "told",
            }
            for word in ("earlier", "later", "together", "never reached", "inconclusive")
        ]
    )
    claim = Claim(name="e", says="earlier", kind="heads_earlier", treated="nca", control="scratch")
    found = claims_table(_study(claim), {**_tables({"scratch": 0.0, "nca": 0.0}), "timing": timing})
    assert found.verdict.tolist() == [SUPPORTED, CONTRADICTED, SAME, UNKNOWN, OPEN]
    assert found.effect.isna().all()  # unbounded is no number


def test_the_demonstration_claims_what_the_paper_does_and_the_scale():
    study: Study = find("runs", "demo").value()
    names = {claim.name: claim for claim in standard(study)}
    assert {"helps", "faster", "beats-c4", "beats-dyck", "attention-carries", "depends-on-published"} <= set(names)
    assert names["depends-on-published"].other == ("nca-published", "scratch-published")
    check_claims(names.values(), [r.name for r in study.regimes])


@pytest.mark.parametrize(
    ("claim", "says"),
    [
        (
            Claim(name="x", says="x", kind="lower_loss", treated="nac", control="scratch"),
            "claims.x.treated: unknown regime 'nac'; did you mean 'nca'?",
        ),
        (Claim(name="x", says="x", kind="lower_loss", treated="nca"), "claims.x.control: unknown regime ''"),
        (Claim(name="x", says="x", kind="depends_on_swap", treated="nca", control="scratch"), "claims.x.other: null"),
    ],
)
def test_a_claim_on_nothing_is_refused(claim, says):
    with pytest.raises(ValueError, match=says.replace("?", "[?]")):
        check_claims([claim], ROLES)
    with pytest.raises(ValueError, match="two claims"):
        check_claims([HELPS, HELPS], ROLES)


def _gated(effect: float) -> dict[str, pd.DataFrame]:
    """NCA against scratch is the primary comparison, of this effect; against C4 it is far better by itself."""
    rng, n = np.random.default_rng(3), 4
    means = {"scratch": 0.0, "nca": effect, "c4": effect + 0.2}
    rows = [{"domain": "web", "regime": r, "seed": s, "value": 4 + m + 0.004 * rng.normal()} for r, m in means.items() for s in range(n)]  # fmt: skip
    plan = [Contrast("regime", "web", "val_loss", "nca", c, tuple(range(n)), 0.01, c == "scratch") for c in ("scratch", "c4")]  # fmt: skip
    return contrast_tables(
        {r: ROLES[r] for r in means}, {"web": "web"}, Values(pd.DataFrame(rows), "val_loss", 0.01), None, plan
    )


def test_a_gated_claim_counts_the_seeds_of_the_primary_comparison_too():
    tables, other = _gated(-0.002), HELPS.model_copy(update={"control": "c4"})
    primary, gated = _verdict(HELPS, tables), _verdict(other, tables)
    assert primary.verdict == gated.verdict == OPEN
    assert gated.high < 0  # clear by itself
    needed = primary.change.split("with ")[1].split(" of this")[0]
    assert "primary comparison" not in primary.change
    assert "closed by the primary comparison (nca minus scratch, web: inconclusive)" in gated.change
    assert f"There, an effect of the size seen is found four times in five with {needed}" in gated.change
    assert "Here, an effect of the size seen is found four times in five with about 4 seeds" in gated.change
    assert _verdict(other, _gated(-0.2)).verdict == SUPPORTED  # the gate open
    none = {**tables, "contrasts": tables["contrasts"].assign(primary=False)}
    assert "primary" not in _verdict(other, none).change


EARLIER = Claim(name="e", says="earlier", kind="heads_earlier", treated="nca", control="scratch")
LOAD = Claim(name="l", says="load", kind="heads_load_bearing", treated="nca")
COMPLEXITY = Claim(name="x", says="complexity", kind="complexity_matches", treated="nca")
REASONS = Claim(name="r", says="reasons", kind="reasons_better", treated="nca", control="scratch")
BESIDE_C4 = HELPS.model_copy(update={"control": "c4"})
SEEN = {"stage": "pt", "probe": "induction", "domain": "web"}
TIMED = {**SEEN, "budget": "pt", "treated": "nca", "control": "c4", "verdict": "earlier", "effect": 1.0, "low": 0.5, "high": 1.5, "n": 6, "sentence": "told"}  # fmt: skip


def _waiting(
    tables: dict[str, pd.DataFrame], treated: str = "nca", control: str = "scratch"
) -> dict[str, pd.DataFrame]:
    """The same before two planned seeds of a comparison are there."""
    rows = tables["contrasts"]
    rows = pd.concat([rows, rows.head(1).assign(treated=treated, control=control)]) if rows[(rows.treated == treated) & (rows.control == control)].empty else rows  # fmt: skip
    waits = (rows.treated == treated) & (rows.control == control)
    late = rows.assign(
        pending=rows.pending.mask(waits, "nca seed 4, nca seed 5"), verdict=rows.verdict.mask(waits, INTERIM)
    )
    return {**tables, "contrasts": late}


@pytest.mark.parametrize(
    ("claim", "tables", "verdict", "says", "todo"),
    [
        (BESIDE_C4, {}, NOT_PLANNED, "no comparison of this study speaks to it", "recipe"),
        (DEPENDS, {}, NOT_PLANNED, "nca-wide and scratch-wide are not compared on web", "recipe"),
        (CARRIES, {}, NOT_PLANNED, "nca-reinit-attn is compared with no regime that it comes from", "recipe"),
        (COMPLEXITY, {}, NOT_PLANNED, "it takes 5 settings of complexity, compared with scratch, and this study has 0 arms", "docs/sweep.md"),
        (REASONS, {}, NOT_PLANNED, "no domain of this study has questions", "docs/reasoning.md"),
        (FASTER.model_copy(update={"control": "c4"}), {}, NOT_PLANNED, "against scratch only", "scratch as its control"),
        (EARLIER, {}, NOT_MEASURED, "induction was not measured over training.", "nca-interp analyze STUDY"),
        (EARLIER, {"timing": pd.DataFrame([TIMED]), "emergence": pd.DataFrame([{**SEEN, "regime": "nca"}])}, NOT_MEASURED, "in runs of scratch.", "nca-interp analyze STUDY"),
        (EARLIER, {"timing": pd.DataFrame([TIMED]), "emergence": pd.DataFrame([{**SEEN, "regime": r} for r in ("nca", "scratch")])}, NOT_PLANNED, "is not compared", "recipe"),
        (LOAD, {}, NOT_MEASURED, "heads were not ablated", "--causes"),
        (LOAD, {"top_sets": pd.DataFrame([{**SEEN, "regime": "c4", "metric": "repeated_token_loss"}])}, NOT_MEASURED, "heads of nca were not ablated at the end", "--causes"),
    ],
    ids=["pair", "swap", "part", "complexity", "questions", "speed", "times", "times of one", "times of a pair", "ablation", "ablation of one"],
)  # fmt: skip
def test_what_was_not_planned_and_what_was_not_measured_are_told_apart(claim, tables, verdict, says, todo):
    row = _verdict(claim, {**_tables({"scratch": 0.0, "nca": -0.1}), **tables})
    assert row.verdict == verdict
    assert says in row.sentence
    assert todo in row.change
    assert row.judged == ""


@pytest.mark.parametrize("claim", [HELPS, FASTER, DEPENDS, EARLIER], ids=lambda c: c.kind)
def test_what_is_not_finished_names_its_runs_and_waits_for_them(claim):
    tables = _tables({"scratch": 0.0, "nca": -0.1, "scratch-wide": 0.3, "nca-wide": 0.3})
    speed = {
        "domain": "web",
        "regime": "nca",
        "budget": "pt",
        "n": 4,
        "speedup": 1.5,
        "low": 1.3,
        "high": 1.7,
        "sentence": "told",
    }
    tables |= {"speedups": pd.DataFrame([speed]), "timing": pd.DataFrame([{**TIMED, "control": "scratch"}])}
    assert _verdict(claim, tables).verdict == SUPPORTED
    row = _verdict(claim, _waiting(tables))
    assert row.verdict == NOT_FINISHED
    assert claim is HELPS or "nca seed 4, nca seed 5" in row.sentence
    assert "nca-interp train own" in row.change


def test_lost_runs_and_a_single_seed_cannot_be_told_from():
    tables = _tables({"scratch": 0.0, "nca": -0.1, "scratch-wide": 0.3, "nca-wide": 0.3})
    gone = tables["contrasts"].assign(lost="pt.nca.web.s0")
    pairs = tables["pairs"]
    none = {**tables, "contrasts": pd.concat([gone, gone.head(1).assign(treated="nca-wide", control="scratch-wide")]), "pairs": pairs[pairs.treated != "nca"]}  # fmt: skip
    row = _verdict(DEPENDS, none)
    assert row.verdict == UNKNOWN
    assert "pt.nca.web.s0 came to no usable loss" in row.sentence
    one = {**tables, "pairs": pairs[pairs.seed == 0]}
    assert _verdict(DEPENDS, one).verdict == UNKNOWN
    assert "two seeds" in _verdict(DEPENDS, one).sentence


def test_a_domain_without_the_arms_says_nothing_where_another_has_them():
    study = _study(DEPENDS)
    study.domains.append(SimpleNamespace(name="other", qa=None))
    tables = _tables({"scratch": 0.0, "nca": -0.1, "scratch-wide": 0.3, "nca-wide": 0.3})
    assert claims_table(study, tables).domain.tolist() == ["web"]


def test_a_claim_says_how_it_was_judged():
    gated = {**_gated(-0.002), "speedups": _tables({"scratch": 0.0, "nca": 0.0})["speedups"]}
    assert (_verdict(HELPS, gated).judged, _verdict(BESIDE_C4, gated).judged) == ("first", "closed")
    assert _verdict(BESIDE_C4, _gated(-0.2)).judged == "corrected"
    assert (
        _verdict(DEPENDS, _tables({"scratch": 0.0, "nca": -0.1, "scratch-wide": 0.3, "nca-wide": 0.3})).judged
        == "alone"
    )
    assert _verdict(HELPS, _waiting(gated)).judged == ""


def test_a_claim_judged_alone_counts_its_seeds():
    """Where the test stays open, the seeds that it says find the effect four times in five do."""
    noise = {"n": 4, "sd": 0.04, "seed": 5}
    row = _verdict(DEPENDS, _tables({"scratch": 0.0, "nca": -0.08, "scratch-wide": 0.3, "nca-wide": 0.3}, **noise))
    assert row.verdict == OPEN
    needed = int(row.change.split("about ")[1].split()[0])
    found = [
        _verdict(DEPENDS, _tables({"scratch": 0.0, "nca": -row.effect, "scratch-wide": 0.3, "nca-wide": 0.3}, n=needed, sd=_spread_of(row), seed=s)).verdict == SUPPORTED
        for s in range(24)
    ]  # fmt: skip
    assert np.mean(found) >= 0.8 - 3 * math.sqrt(0.8 * 0.2 / 24)


def _spread_of(row: Any) -> float:
    """Standard deviation of one run, from the interval of a difference of differences of n seeds."""
    half = (row.high - row.low) / 2
    return float(half / stats.t.ppf(0.975, row.n - 1) * math.sqrt(row.n) / 2)
