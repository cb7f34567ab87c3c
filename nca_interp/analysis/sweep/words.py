"""The hypotheses of a sweep in words, and what was found of each in a sentence."""

from __future__ import annotations

import math
from typing import NamedTuple

import pandas as pd

from nca_interp.analysis.verdicts.hypotheses import (
    BETWEEN,
    CONTRADICTED,
    ENTROPY,
    LEARNABILITY,
    MATCHING,
    SUPPORTED,
    Tested,
)
from nca_interp.analysis.verdicts.judge import CANNOT_TELL

NAMES = {
    MATCHING: "distance from the corpus", ENTROPY: "complexity (entropy)", LEARNABILITY: "what the models learned",
    BETWEEN: "distance from the corpus, less what an arm has in all domains",
}  # fmt: skip
OPPOSITE = {SUPPORTED: CONTRADICTED, CONTRADICTED: SUPPORTED}


class Hypothesis(NamedTuple):
    """What is said of a predictor."""

    name: str
    claim: str
    reversed: bool = False
    """Whether it claims the opposite sign."""

    def verdict(self, t: Tested) -> str:
        """Of this claim."""
        return OPPOSITE.get(t.verdict, t.verdict) if self.reversed else t.verdict


HYPOTHESES: dict[str, tuple[Hypothesis, ...]] = {
    MATCHING: (Hypothesis("matching", "gain falls with the distance from the corpus"),),
    ENTROPY: (
        Hypothesis("more entropy is better", "gain rises with the complexity of the source"),
        Hypothesis("more entropy is worse", "gain falls with the complexity of the source", reversed=True),
    ),
    LEARNABILITY: (Hypothesis("only learnability matters", "gain rises with what the models learned of the source"),),
    BETWEEN: (
        Hypothesis(
            "matching, between domains",
            "an arm that is nearer to one domain than to another gains more there than there",
        ),
    ),
}
"""Predictor -> claims; two that are opposite share one test."""


def sentence(hypothesis: Hypothesis, t: Tested, family: list[Tested], domains: list[str]) -> str:
    """What was found, with effect, interval, n and p; what it cannot be told from."""
    claim = f"{hypothesis.claim[0].upper()}{hypothesis.claim[1:]}"
    word = hypothesis.verdict(t)
    if math.isnan(t.p):
        return f"{claim}: cannot be told, {t.why}."
    verb = {
        SUPPORTED: "supported",
        CONTRADICTED: "contradicted, it is the other way round",
        CANNOT_TELL: f"cannot be told: {t.why}",
    }
    tests = sum(not math.isnan(one.p) for one in family)
    corrected = "" if math.isnan(t.p_holm) else f", {_p(t.p_holm)} given each rival and corrected for {tests} tests"
    said = f"{claim}: {verb.get(word, word)}. {_numbers(t)}, p {_p(t.p)}{corrected}{_given(t)}."
    if t.predictor == MATCHING and len(domains) == 1:
        said += (
            f" With {domains[0]} alone, a distance from its corpus is a preference for one complexity; that the best one moves with the domain "
            "takes a second domain."
        )
    return said


def left_out(arms: pd.DataFrame, names: list[str]) -> str:
    """Which arms are not in the verdict, and why, as a sentence behind others; nothing where all are in."""
    rest = arms[~arms.regime.isin(names)]
    if rest.empty:
        return ""
    reasons: dict[str, list[str]] = {}
    for name, rows in rest.groupby("regime", sort=False):
        kind = "models that do not beat the mode or a copy on new rules" if (rows.learned == "no").any() else ""
        kind = kind or next((w for w in rows.why if w), "not trained on every domain")
        reasons.setdefault(kind, []).append(str(name))
    told = "; ".join(f"{', '.join(who)} ({why})" for why, who in reasons.items())
    return f" Left out, {rest.regime.nunique()} of {arms.regime.nunique()} arms: {told}."


def without_corpus(arms: pd.DataFrame) -> str:
    """Which domains have no distance, as a sentence behind others; nothing where all have."""
    names = list(dict.fromkeys(arms[arms.corpus.isna()].domain))
    if not names:
        return ""
    return f" No distance from {', '.join(names)}: rows of the corpus are too short to be measured on the first axis."


def exploratory(hypothesis: Hypothesis | None, t: Tested, everyone: bool) -> str:
    """The numbers without a verdict; `everyone`: of all arms, also of those whose models did not learn."""
    what = NAMES.get(t.predictor, t.predictor)
    who = "All arms, whether or not their models learned: " if everyone else ""
    return f"{who}{what}: {_numbers(t)}, p {_p(t.p)}, uncorrected{_given(t)}. Exploration: no verdict."


def _numbers(t: Tested) -> str:
    return (
        f"One standard deviation over arms goes with {t.effect:+.4f} nats a token of gain (95 % interval {t.low:+.4f} to {t.high:+.4f}); "
        f"correlation {t.rho:+.2f} over {t.arms} arms, {t.seeds} seeds, {t.domains} domain{'' if t.domains == 1 else 's'}"
    )


def _given(t: Tested) -> str:
    if not t.rival:
        return ""
    left = (
        "nothing of it is left given that" if math.isnan(t.given) else f"given that, {t.given:+.2f} (p {_p(t.p_given)})"
    )
    return f"; with {NAMES.get(t.rival, t.rival)} it correlates {t.rival_rho:+.2f}, {left}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
