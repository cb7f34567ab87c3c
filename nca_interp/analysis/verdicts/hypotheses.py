"""Does transfer gain follow the distance from the domain, or something else of the data? Hypotheses side by side, the arm as the unit.

Each hypothesis names a predictor of the arms: `matching` their distance from the domain's corpus (gain should fall with it), `entropy`
their own complexity (gain should rise with it, or fall), `learnability` how far their model beats the rivals that know no rule.
Distances differ between arms, not between seeds, so the arm is exchanged: every domain's gains are dealt out anew to the arms by one order.

Predictors of one study go together. A hypothesis is therefore judged by the largest p of several: that of its rank correlation with
gain, and that of what is left of it given each rival (Freedman and Lane 1983, on ranks). That is a p of "no relation beyond any
one rival" (intersection-union), and Holm corrects it over the family. Where a rival orders the arms nearly alike, no number of seeds can
tell the two apart, and the verdict is "cannot tell".
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import stats

from nca_interp.analysis.verdicts.judge import CANNOT_TELL, INCONCLUSIVE
from nca_interp.analysis.verdicts.statistics import ALPHA, POWER, holm

MATCHING, ENTROPY, LEARNABILITY, BETWEEN = "distance", "entropy", "learnability", "distance, between domains"
EXPECTED = {MATCHING: -1, ENTROPY: 1, LEARNABILITY: 1, BETWEEN: -1}
"""Sign of the relation with gain that is called "supported"."""
SUPPORTED, CONTRADICTED = "supported", "contradicted"
MIN_ARMS, MIN_SEEDS = 5, 2
"""Fewest arms: of four there are 24 orders, so that no two-sided p lies below 0.083; and seeds, for one gives no verdict anywhere."""
SEPARABLE = 0.9
"""Rank correlation of two predictors from which on they are not told apart: less than a fifth of the one is left given the other."""
BETWEEN_SHARE = 0.2
"""Least share of the spread of distances that must lie between domains for the comparison between domains to say anything."""
PERMUTATIONS = 39_999
"""Orders of the arms that are tried: every one where there are no more, else so many random ones."""
Floats = np.ndarray


class DomainArms(NamedTuple):
    """One domain: gains [seed, arm] over scratch (positive: better), and predictors [arm], the same arms in every domain."""

    gains: Floats
    predictors: Mapping[str, Floats]


class Orders(NamedTuple):
    """Orders of the arms."""

    rows: Floats
    """[m, arm]"""
    exact: bool
    """Whether these are all there are."""

    def p(self, observed: float, values: Floats) -> float:
        """Share of the orders with a value as far from zero as the observed one, which counts as one of random orders."""
        beaten = int((np.abs(values) >= abs(observed) - 1e-9).sum())
        return float((beaten + (not self.exact)) / (len(values) + (not self.exact)))

    @property
    def floor(self) -> float:
        """Least two-sided p where no arms are tied."""
        return (2 if self.exact else 1) / (len(self.rows) + (not self.exact))


class Tested(NamedTuple):
    """What was found of one hypothesis; NaN where there is no number."""

    predictor: str
    arms: int
    seeds: int
    domains: int
    effect: float
    """Gain in nats a token for one standard deviation over arms of the predictor, mean over domains."""
    low: float
    """95 % jackknife interval over arms."""
    high: float
    rho: float
    """Mean over domains and seeds of Spearman's rank correlation with gain."""
    p: float
    """Two-sided, of no relation: arms exchanged."""
    rival: str
    """Given which the least is left: the one with the largest p; else the one that orders the arms most alike."""
    rival_rho: float
    """Rank correlation of predictor and rival over arms, root mean square over domains."""
    given: float
    """Partial rank correlation with gain, given the rival."""
    p_given: float
    p_holm: float
    """Largest of p and the p given each rival, corrected over the family."""
    p_floor: float
    """Least that p can be with so many arms, times the number of tests."""
    verdict: str
    why: str
    """Of "cannot tell"."""


def weigh(domains: Sequence[DomainArms], permutations: int = PERMUTATIONS) -> list[Tested]:
    """All hypotheses of one study as one family. Predictors that are missing in a domain, or equal in all arms, are not tested."""
    n, seeds = (domains[0].gains.shape[1], min(len(d.gains) for d in domains)) if domains else (0, 0)
    known = [name for name in (MATCHING, ENTROPY, LEARNABILITY) if domains and _varies(domains, name)]
    if n < MIN_ARMS or seeds < MIN_SEEDS:
        why = f"{n} arms and {seeds} seeds that have them all; it takes {MIN_ARMS} arms and {MIN_SEEDS} seeds"
        return [_untested(name, n, seeds, len(domains), why) for name in dict.fromkeys((MATCHING, ENTROPY, *known))]
    orders = all_orders(n, permutations)
    same = [] if MATCHING in known else [_untested(MATCHING, n, seeds, len(domains), "all arms are equally far")]
    found = [*same, *(_tested(name, [r for r in known if r != name], domains, orders) for name in known)]
    if len(domains) > 1 and MATCHING in known:
        found.append(_between(domains, orders))
    return _judged(found)


def _judged(found: list[Tested]) -> list[Tested]:
    """Holm over the family, then the words."""
    joint = [math.nan if math.isnan(t.p) else max(t.p, 0.0 if math.isnan(t.p_given) else t.p_given) for t in found]
    family = sum(not math.isnan(p) for p in joint)
    out = []
    for t, p in zip(found, holm(joint), strict=True):
        t = t._replace(p_holm=p, p_floor=min(1.0, t.p_floor * family))
        if not t.verdict:
            word, why = _word(t)
            t = t._replace(verdict=word, why=why)
        out.append(t)
    return out


def _word(t: Tested) -> tuple[str, str]:
    if math.isnan(t.p):
        return CANNOT_TELL, t.why or "it is the same in all arms"
    if abs(t.rival_rho) >= SEPARABLE:
        return CANNOT_TELL, f"{t.predictor} and {t.rival} order the arms alike, rank correlation {t.rival_rho:.2f}"
    if t.p_floor > ALPHA - 1e-9:
        return CANNOT_TELL, f"with {t.arms} arms no order of them lies below {t.p_floor:.2f} once corrected"
    if not t.p_holm < ALPHA:
        return INCONCLUSIVE, ""
    signs = {math.copysign(1, v) * EXPECTED[t.predictor] for v in (t.rho, t.given) if not math.isnan(v)}
    return (SUPPORTED if signs == {1} else CONTRADICTED if signs == {-1} else INCONCLUSIVE), ""


def _tested(name: str, rivals: list[str], domains: Sequence[DomainArms], orders: Orders) -> Tested:
    y = [mean_ranks(d.gains) for d in domains]
    x = [ranks(d.predictors[name]) for d in domains]
    rho, p = permutation(x, y, orders)
    left = _most_alike([_given(rival, x, y, domains, orders) for rival in rivals])
    effect, low, high = slope([d.gains.mean(0) for d in domains], [d.predictors[name] for d in domains])
    n, seeds = domains[0].gains.shape[1], min(len(d.gains) for d in domains)
    return Tested(
        name, n, seeds, len(domains), effect, low, high, rho, p, left.rival, left.alike, left.rho, left.p, math.nan, orders.floor, "", ""
    )  # fmt: skip


class _Given(NamedTuple):
    """What is left of a predictor given one rival."""

    rival: str
    rho: float
    p: float
    alike: float
    """Rank correlation of predictor and rival, root mean square over domains."""

    @property
    def inseparable(self) -> bool:
        return abs(self.alike) >= SEPARABLE


def _given(rival: str, x: list[Floats], y: list[Floats], domains: Sequence[DomainArms], orders: Orders) -> _Given:
    z = [ranks(d.predictors[rival]) for d in domains]
    single = np.array([a @ b for a, b in zip(x, z, strict=True)])
    return _Given(rival, *partial(x, y, z, orders), math.copysign(math.sqrt((single**2).mean()), single.sum()))


def _most_alike(found: list[_Given]) -> _Given:
    """The rival that decides: the one most alike of those that cannot be told apart, else the one given which p is largest."""
    apart = [g for g in found if g.inseparable]
    nothing = _Given("", math.nan, math.nan, math.nan)
    return max(apart, key=lambda g: abs(g.alike)) if apart else max(found, key=lambda g: g.p, default=nothing)


def _between(domains: Sequence[DomainArms], orders: Orders) -> Tested:
    """Does an arm that is nearer to one domain than to the other gain more there than there? What an arm has in all domains
    (entropy, learnability) falls out."""
    n, seeds = domains[0].gains.shape[1], min(len(d.gains) for d in domains)
    raw = np.array([d.predictors[MATCHING] for d in domains])
    gains, distance = _twice_centred(np.array([d.gains.mean(0) for d in domains])), _twice_centred(raw)
    share = float(distance.std() / max((raw - raw.mean(1, keepdims=True)).std(), 1e-12))
    nan = math.nan
    blank = Tested(
        BETWEEN, n, seeds, len(domains), nan, nan, nan, nan, nan, "", nan, nan, nan, nan, orders.floor, "", ""
    )
    if share < BETWEEN_SHARE or not np.ptp(gains):
        return blank._replace(
            why="the arms are as far from one domain's corpus as from the other's, but for a constant"
        )
    norm = np.linalg.norm(distance) * np.linalg.norm(gains)
    values = np.einsum("dpi,di->p", distance[:, orders.rows], gains) / norm
    observed = float((distance * gains).sum() / norm)
    effect, low, high = slope(list(gains), list(distance), centred=True)
    return blank._replace(effect=effect, low=low, high=high, rho=observed, p=orders.p(observed, values))


def _untested(name: str, arms: int, seeds: int, domains: int, why: str) -> Tested:
    nan = math.nan
    return Tested(name, arms, seeds, domains, nan, nan, nan, nan, nan, "", nan, nan, nan, nan, nan, CANNOT_TELL, why)


def permutation(x: Sequence[Floats], y: Sequence[Floats], orders: Orders) -> tuple[float, float]:
    """Mean over domains of x @ y and its two-sided p, the arms of all domains exchanged by the same order."""
    values = np.mean([a[orders.rows] @ b for a, b in zip(x, y, strict=True)], axis=0)
    observed = float(np.mean([a @ b for a, b in zip(x, y, strict=True)]))
    return observed, orders.p(observed, values)


def partial(x: Sequence[Floats], y: Sequence[Floats], z: Sequence[Floats], orders: Orders) -> tuple[float, float]:
    """Mean over domains of the partial correlation of x and y given z, and its two-sided p: residuals of y are exchanged and
    made residuals again (Freedman and Lane 1983). NaN where nothing of x is left in any domain."""
    values, observed, known = np.zeros(len(orders.rows)), 0.0, 0
    for a, b, c in zip(x, y, z, strict=True):
        left, rest = a - (a @ c) * c, b - (b @ c) * c
        if np.linalg.norm(left) < 1e-6 or np.linalg.norm(rest) < 1e-6:
            continue
        left = left / np.linalg.norm(left)
        moved = rest[orders.rows]
        moved = moved - (moved @ c)[:, None] * c
        norms = np.linalg.norm(moved, axis=1)
        values += np.divide(moved @ left, norms, out=np.zeros(len(orders.rows)), where=norms > 1e-9)
        observed, known = observed + float(rest @ left / np.linalg.norm(rest)), known + 1
    if not known:
        return math.nan, math.nan
    return observed / known, orders.p(observed, values)


def slope(gains: Sequence[Floats], predictor: Sequence[Floats], centred: bool = False) -> tuple[float, float, float]:
    """Mean over domains of the least-squares slope of gain [arm] on the predictor in its standard deviations over arms, with the
    interval of the jackknife over arms (t, arms - 1 degrees). `centred`: one slope for all domains, through the origin."""
    g, x = np.array(gains, dtype=float), np.array(predictor, dtype=float)
    scale = x.std(axis=None if centred else 1, keepdims=True)
    x = x / np.where(scale > 0, scale, 1.0)

    def fit(kept: Floats) -> float:
        a, b = x[:, kept], g[:, kept]
        if centred:
            a, b = _twice_centred(a), _twice_centred(b)
            return float((a * b).sum() / max((a * a).sum(), 1e-12))
        a = a - a.mean(1, keepdims=True)
        return float(np.mean((a * b).sum(1) / np.maximum((a * a).sum(1), 1e-12)))

    n = g.shape[1]
    every = np.arange(n)
    without = np.array([fit(np.delete(every, i)) for i in every])
    error = math.sqrt((n - 1) / n * float(((without - without.mean()) ** 2).sum()))
    half = float(stats.t.ppf(1 - ALPHA / 2, n - 1)) * error
    whole = fit(every)
    return whole, whole - half, whole + half


def detectable(arms: int, tests: int) -> float:
    """Rank correlation with gain that so many arms show four times in five, at the strictest level of the correction (Fisher's z with
    the error 1.03 / sqrt(arms - 3); Fieller, Hartley and Pearson 1957). NaN below MIN_ARMS."""
    if arms < MIN_ARMS:
        return math.nan
    wanted = float(stats.norm.isf(ALPHA / tests / 2) + stats.norm.ppf(POWER))
    return math.tanh(wanted * 1.03 / math.sqrt(arms - 3))


def _varies(domains: Sequence[DomainArms], name: str) -> bool:
    values = [d.predictors.get(name) for d in domains]
    return all(v is not None and np.isfinite(v).all() and np.ptp(np.round(v, 9)) > 0 for v in values)


def _twice_centred(values: Floats) -> Floats:
    """Values [domain, arm] less the mean of each domain and of each arm."""
    return np.asarray(values - values.mean(0) - values.mean(1, keepdims=True) + values.mean())


def ranks(values: Floats) -> Floats:
    """Ranks, centred, of length 1; values that are equal but for rounding are ties; all zero where nothing varies."""
    centred = stats.rankdata(np.round(values, 9))
    centred = centred - centred.mean()
    length = np.linalg.norm(centred)
    return np.asarray(centred / length if length > 0 else centred, dtype=float)


def mean_ranks(gains: Floats) -> Floats:
    """Mean over seeds of the ranks of gains [seed, arm]: `ranks(x) @ mean_ranks(gains)` is the mean of Spearman's rho over seeds."""
    return np.asarray(np.mean([ranks(row) for row in gains], axis=0))


@lru_cache(maxsize=8)
def all_orders(n: int, permutations: int = PERMUTATIONS) -> Orders:
    """Every order of n arms, or random ones where there are more than so many."""
    if math.factorial(n) <= permutations:
        return Orders(np.array(list(itertools.permutations(range(n)))), True)
    return Orders(np.random.default_rng(0).permuted(np.tile(np.arange(n), (permutations, 1)), axis=1), False)
