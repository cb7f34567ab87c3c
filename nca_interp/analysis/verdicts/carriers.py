"""What carries the transfer: necessity and sufficiency of parts, exact Shapley shares, and what share of the gap each is.

With v(S) = L(scratch) - L(only S carried over), all of one domain and seed: the gap G = v(everything); necessity of S is
N_S = L(S re-initialised) - L(full) = G - v(everything but S); sufficiency U_S = v(S). All are sums of losses of runs of one seed,
so each has a value a seed, and an interval over seeds and validation documents as every contrast has. Shares of G are ratios of means
with Fieller's interval over seeds, and are given only where the interval of G excludes zero: else there is no transfer to explain.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pandas as pd

from nca_interp.analysis.verdicts.contrasts import Values
from nca_interp.analysis.verdicts.plan import full_of, questions_of, scratch_of
from nca_interp.analysis.verdicts.plan import primary as primary_of
from nca_interp.analysis.verdicts.shares import (
    Coalition,
    Losses,
    Weights,
    fieller,
    interaction_weights,
    shapley_weights,
)
from nca_interp.analysis.verdicts.statistics import Interval
from nca_interp.config import MODULES, Regime, Study
from nca_interp.graft import CALLED, NOTHING, Graft

ESTIMATE = ["n", "effect", "low", "high", "gap", "gap_low", "gap_high", "share", "share_low", "share_high"]
TRANSFER = [
    "domain",
    "regime",
    "question",
    "mode",
    "parts",
    "layers",
    "heads",
    "instead",
    "against",
    "full",
    *ESTIMATE,
    "verdict",
    "sentence",
]
TRANSFER_SEEDS = ["domain", "regime", "question", "seed", "effect", "gap"]
SHAPLEY = ["domain", "regime", "instead", "quantity", "term", *ESTIMATE, "sentence"]
SHAPLEY_SEEDS = ["domain", "regime", "instead", "quantity", "term", "seed", "effect", "gap"]
SAID = {
    "necessity": {"worse": "needed", "equivalent": "not needed", "better": "better without"},
    "sufficiency": {"better": "carries some", "equivalent": "carries nothing", "worse": "harms"},
}
"""What the verdict of the planned comparison says of the parts."""
NO_TRANSFER = "no transfer to explain"


class Arm(NamedTuple):
    """One question that an arm answers."""

    regime: str
    question: str
    full: str
    scratch: str | None
    graft: Graft

    @property
    def against(self) -> str:
        """The regime that it is compared with."""
        return self.full if self.question == "necessity" else self.scratch or ""

    @property
    def weights(self) -> dict[str, float]:
        """N_S or U_S as a sum of losses."""
        sign = 1.0 if self.question == "necessity" else -1.0
        return {self.regime: sign, self.against: -sign}

    @property
    def gap(self) -> dict[str, float]:
        """G as a sum of losses."""
        return {} if self.scratch is None else {self.scratch: 1.0, self.full: -1.0}


def as_graft(regime: Regime) -> Graft:
    """What a regime carries over; its field `keep` as the parts that are kept."""
    if regime.graft != NOTHING or set(regime.keep) == set(MODULES):
        return regime.graft
    return Graft(mode="keep", parts=regime.keep, instead=regime.reinit_to)


def arms_of(study: Study, domain: str) -> list[Arm]:
    """Every question of every arm of a domain, in the recipe's order. Arms of the field `keep` are compared with the regime that the
    study is about, and answer both."""
    first = primary_of({r.name: r.role for r in study.regimes})
    found = []
    for arm in study.regimes:
        graft = as_graft(arm)
        if graft == NOTHING or arm.role != "transfer":
            continue
        full, scratch = full_of(study, arm), scratch_of(study, arm, domain)
        name = full.name if arm.graft != NOTHING and full is not None else first
        if name is None:
            continue
        for question in questions_of(arm.graft) if arm.graft != NOTHING else ("necessity", "sufficiency"):
            if question == "necessity" or scratch is not None:
                told = graft if arm.graft != NOTHING or question == "sufficiency" else complement(graft)
                found.append(Arm(arm.name, question, name, scratch.name if scratch is not None else None, told))
    return found


def complement(graft: Graft) -> Graft:
    """Keeping some modules as re-initialising the others."""
    others = tuple(part for part in MODULES if part not in graft.parts)
    return Graft(mode="reinit", parts=others, instead=graft.instead)


def coalition(graft: Graft) -> Coalition | None:
    """The modules that are carried over whole, where a graft is about whole modules of all layers."""
    if (
        graft.heads
        or graft.layers != "all"
        or not set(graft.parts) <= set(MODULES)
        or graft.instead not in ("initial", "fresh")
    ):
        return None
    named = frozenset(map(str, graft.parts))
    return named if graft.mode == "keep" else frozenset(MODULES) - named


def transfer_tables(study: Study, values: Values, contrasts: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The tables transfer, transfer_seeds, shapley and shapley_seeds (docs/tables.md); `contrasts` has the verdicts."""
    parts: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("transfer", "transfer_seeds", "shapley", "shapley_seeds")
    }
    words = {
        (c.domain, c.treated, c.control): str(c.verdict) for c in contrasts[contrasts.family == "transfer"].itertuples()
    }
    for domain in study.domains:
        planned = {r.name: len(study.seeds) if r.runs is None else r.runs.get(domain.name, 0) for r in study.regimes}
        losses = Losses(values, domain.name, planned)
        for arm in arms_of(study, domain.name):
            _tell(parts, losses, arm, domain.label, words.get((domain.name, arm.regime, arm.against), ""))
        for group in _games(study, domain.name):
            _share(parts, losses, group, domain.label)
    columns = {
        "transfer": TRANSFER,
        "transfer_seeds": TRANSFER_SEEDS,
        "shapley": SHAPLEY,
        "shapley_seeds": SHAPLEY_SEEDS,
    }
    return {name: pd.DataFrame(parts[name], columns=columns[name]) for name in parts}


def _tell(parts: dict[str, list[dict[str, Any]]], losses: Losses, arm: Arm, label: str, word: str) -> None:
    seeds = losses.seeds(arm.weights, arm.gap)
    if not seeds:
        return
    numbers = _estimates(losses, arm.weights, arm.gap, seeds)
    graft = arm.graft
    heads = graft.heads if isinstance(graft.heads, tuple) else graft.heads.file
    told = heads if isinstance(heads, str) else " ".join(f"{a}.{b}" for a, b in heads)
    key = {"domain": losses.domain, "regime": arm.regime, "question": arm.question}
    layers = graft.layers if isinstance(graft.layers, str) else " ".join(map(str, graft.layers))
    verdict = _verdict(arm.question, word)
    parts["transfer"].append({
        **key, "mode": graft.mode, "parts": " ".join(graft.parts), "layers": layers if graft.parts else "", "heads": told,
        "instead": graft.instead if graft.donor is None else f"donor {graft.donor}", "against": arm.against, "full": arm.full, **numbers,
        "verdict": verdict, "sentence": f"{label}: {graft.short()}: {_sentence(arm.question, numbers)}",
    })  # fmt: skip
    parts["transfer_seeds"] += _seed_rows(losses, key, arm.weights, arm.gap, seeds)


def _seed_rows(
    losses: Losses, key: Mapping[str, Any], weights: Weights, gap: Weights, seeds: list[int]
) -> Iterator[dict[str, Any]]:
    gaps = losses.by_seed(gap, seeds) if gap else [math.nan] * len(seeds)
    for seed, effect, whole in zip(seeds, losses.by_seed(weights, seeds), gaps, strict=True):
        yield {**key, "seed": seed, "effect": float(effect), "gap": float(whole)}


def _estimates(losses: Losses, weights: Weights, gap: Weights, seeds: list[int]) -> dict[str, Any]:
    """ESTIMATE of one sum; shares only where the interval of the gap excludes zero."""
    nothing = Interval(math.nan, math.nan, math.nan)
    effect = losses.estimate(weights, seeds)
    whole = losses.estimate(gap, seeds) if gap else nothing
    share = nothing
    if whole.low > 0 or whole.high < 0:
        share = fieller(losses.by_seed(weights, seeds), losses.by_seed(gap, seeds))
    names = [name for name in ESTIMATE if name != "n"]
    return {"n": len(seeds), **dict(zip(names, (*effect, *whole, *share), strict=True))}


def _verdict(question: str, word: str) -> str:
    """The planned comparison's verdict in terms of the parts; other words as they are."""
    first, comma, rest = word.partition(",")
    return SAID[question].get(first, first) + comma + rest


def _sentence(question: str, found: Mapping[str, Any]) -> str:
    what = "costs" if question == "necessity" else "leaves a gain over scratch of"
    return f"{what} {_nats(found, 'effect', 'low', 'high')}, {found['n']} seed(s); {_of_gap(found)}"


def _of_gap(found: Mapping[str, Any]) -> str:
    if math.isnan(found["gap"]):
        return "no scratch to compare with, so no share."
    gap = _nats(found, "gap", "gap_low", "gap_high")
    if math.isnan(found["share"]):
        return f"{NO_TRANSFER}: the gap of full transfer to scratch is {gap}."
    span = (
        ""
        if math.isnan(found["share_low"])
        else f" (95 % interval {found['share_low']:.0%} to {found['share_high']:.0%})"
    )
    return f"{found['share']:.0%}{span} of the gap to scratch, {gap}."


def _nats(found: Mapping[str, Any], value: str, low: str, high: str) -> str:
    span = "no interval" if math.isnan(found[low]) else f"95 % interval {found[low]:+.4f} to {found[high]:+.4f}"
    return f"{found[value]:+.4f} nats a token ({span})"


class Game(NamedTuple):
    """The regimes that carry over each set of modules."""

    full: str
    scratch: str
    instead: str
    regime: dict[Coalition, str]

    def weights(self, of_values: Mapping[Coalition, float]) -> dict[str, float]:
        """A sum over v(S) = L(scratch) - L(S) as a sum of losses; `of_values` sums to zero, so scratch is in it as the empty set."""
        found: dict[str, float] = {}
        for chosen, factor in of_values.items():
            found[self.regime[chosen]] = found.get(self.regime[chosen], 0.0) - factor
        return found

    @property
    def gap(self) -> dict[str, float]:
        """v(everything) - v(nothing)."""
        return self.weights({frozenset(MODULES): 1.0, frozenset(): -1.0})


def _games(study: Study, domain: str) -> Iterator[Game]:
    """The sets of arms, one of each coalition of {attention, MLP, norms}, that are there whole."""
    found: dict[tuple[str, str], Game] = {}
    for arm in arms_of(study, domain):
        own = as_graft(study.regime(arm.regime))
        chosen = coalition(own)
        if chosen is None or arm.scratch is None:
            continue
        key = (arm.full, own.instead)
        start: dict[Coalition, str] = {frozenset(MODULES): arm.full} | (
            {frozenset(): arm.scratch} if own.instead == "initial" else {}
        )
        game = found.setdefault(key, Game(arm.full, arm.scratch, own.instead, start))
        if chosen:
            game.regime.setdefault(chosen, arm.regime)
        else:
            game.regime[chosen] = arm.regime
    yield from (game for game in found.values() if len(game.regime) == 2 ** len(MODULES))


def _share(parts: dict[str, list[dict[str, Any]]], losses: Losses, game: Game, label: str) -> None:
    seeds = losses.seeds(dict.fromkeys(game.regime.values(), 1.0))
    if not seeds:
        return
    terms: list[tuple[str, str, str, dict[Coalition, float]]] = [
        ("share", part, CALLED[part], shapley_weights(part, MODULES)) for part in MODULES
    ]
    for a, b in itertools.combinations(MODULES, 2):
        terms.append(
            ("interaction", f"{a} x {b}", f"{CALLED[a]} with {CALLED[b]}", interaction_weights((a, b), MODULES))
        )
    for quantity, term, called, of_values in terms:
        weights = game.weights(of_values)
        numbers = _estimates(losses, weights, game.gap, seeds)
        key = {
            "domain": losses.domain,
            "regime": game.full,
            "instead": game.instead,
            "quantity": quantity,
            "term": term,
        }
        what = "Shapley share" if quantity == "share" else "interaction"
        text = f"{label}: {called}: {what} {_nats(numbers, 'effect', 'low', 'high')}, {len(seeds)} seed(s); {_of_gap(numbers)}"
        parts["shapley"].append({**key, **numbers, "sentence": text})
        parts["shapley_seeds"] += _seed_rows(losses, key, weights, game.gap, seeds)
