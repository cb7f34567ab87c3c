"""The ladder of rule inference: each rung planted, the size of each claim where it is just not true, and what does not matter."""

from __future__ import annotations

import numpy as np
import pytest

from nca_interp.analysis.inference.rungs import NEAR, RIVALS, Context, climb, sentence
from nca_interp.analysis.verdicts.statistics import Interval

RULES = 64
GROUPS = [str(i) for i in range(RULES)]
LEVELS = {"mode": 0.58, "cell-mode": 0.57, "copy": 0.5, "lookup": 0.915, "backoff": 0.93, "oracle": 0.99}
USED = Context(Interval(0.2, 0.1, 0.3), Interval(-0.4, -0.5, -0.3))
UNUSED = Context(Interval(0.0, -0.1, 0.1), Interval(-0.4, -0.5, -0.3))
NOWHERE = Context(Interval(*[np.nan] * 3), Interval(*[np.nan] * 3))


def drawn(
    own: float, rng: np.random.Generator, n: int = RULES, **levels: float
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Accuracies by rule: rules differ in difficulty, which all predictors share."""
    rule = 0.05 * rng.normal(size=n)
    values = {
        name: rule + 0.02 * rng.normal(size=n) + level for name, level in ({"own": own} | LEVELS | levels).items()
    }
    return values.pop("own"), values


def rung(own: float, context: Context = USED, seed: int = 0, **levels: float):
    return climb(*drawn(own, np.random.default_rng(seed), **levels), GROUPS, context)


@pytest.mark.parametrize(
    ("own", "context", "verdict", "rival", "inferred"),
    [
        (0.5, UNUSED, "no better than mode", "mode", False),
        (0.5, USED, "uses its context", "mode", False),
        (0.86, USED, "beats mode and copy", "lookup", False),
        (0.86, UNUSED, "beats mode and copy", "lookup", False),
        (0.923, USED, "beats lookup", "backoff", False),
        (0.95, USED, "beats back-off", "oracle", True),
        (0.95, UNUSED, "beats back-off", "oracle", False),  # not by its context
        (0.99, USED, "near the oracle", "oracle", True),
    ],
)
def test_planted_models_stand_on_their_rung(own, context, verdict, rival, inferred):
    found = rung(own, context)
    assert (found.verdict, found.rival, found.inferred) == (verdict, rival, inferred)
    told = sentence(found, context, LEVELS, own, [5, 6], 0.0)
    assert ("inferred the rule" in told) == inferred
    assert f"{rival} gets {LEVELS[rival]:.3f}" in told


def test_the_bottom_names_who_is_as_good_and_doubt_is_open():
    assert rung(0.6, UNUSED, copy=0.7).verdict == "no better than copy"
    assert rung(0.58, UNUSED).verdict == "inconclusive"
    assert "is open" in sentence(rung(0.58, UNUSED), UNUSED, LEVELS, 0.58, [6], 0.0)
    one = climb(*drawn(0.9, np.random.default_rng(0), n=1), ["0"], NOWHERE)  # one rule says nothing
    assert (one.verdict, one.n) == ("inconclusive", 1)
    own, others = drawn(0.95, np.random.default_rng(0))
    del others["oracle"]
    assert climb(own, others, GROUPS, USED)[:3] == ("beats back-off", True, "backoff")


def test_rows_of_one_rule_count_once_and_an_oracle_of_fewer_rows_is_paired_with_them():
    own, others = drawn(0.985, np.random.default_rng(0), n=12)
    once = climb(own, others, GROUPS[:12], USED)
    often = climb(np.tile(own, 4), {k: np.tile(v, 4) for k, v in others.items()}, GROUPS[:12] * 4, USED)
    assert (once.verdict, once.n) == (often.verdict, often.n)
    np.testing.assert_allclose(often.gap, once.gap)
    part = climb(own, others | {"oracle": others["oracle"][:5]}, GROUPS[:12], USED)
    assert part.gap.value == pytest.approx((own[:5] - others["oracle"][:5]).mean())


@pytest.mark.parametrize(
    ("own", "claims"),
    [
        (LEVELS["mode"], ("beats mode and copy",)),
        (LEVELS["lookup"], ("beats lookup",)),
        (LEVELS["backoff"], ("beats back-off",)),
        (LEVELS["oracle"] - NEAR, ("near the oracle",)),
    ],
)
def test_a_rung_is_rarely_claimed_at_its_own_height(own, claims):
    rng, models = np.random.default_rng(1), 400
    said = [climb(*drawn(own, rng), GROUPS, UNUSED).verdict in claims for _ in range(models)]
    assert np.mean(said) <= 0.025 + 3 * np.sqrt(0.025 * 0.975 / models)


def test_the_bottom_is_rarely_claimed_of_a_model_that_is_better():
    rng, models = np.random.default_rng(2), 400
    alike = dict.fromkeys(("mode", "cell-mode", "copy"), 0.58)
    said = [climb(*drawn(0.5801, rng, **alike), GROUPS, UNUSED).verdict.startswith("no better") for _ in range(models)]
    assert np.mean(said) <= 0.025 + 3 * np.sqrt(0.025 * 0.975 / models)
    assert set(RIVALS) == set(LEVELS) - {"oracle"}
