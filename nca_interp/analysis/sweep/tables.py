"""The tables `sweep` and `sweep_tests` (docs/sweep.md)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from nca_interp.analysis.collection.collection import Collection
from nca_interp.analysis.sweep.arms import SWEEP, Tables, sweep_table
from nca_interp.analysis.sweep.words import HYPOTHESES, exploratory, left_out, sentence, without_corpus
from nca_interp.analysis.verdicts.hypotheses import (
    ENTROPY,
    LEARNABILITY,
    MATCHING,
    MIN_ARMS,
    DomainArms,
    Tested,
    weigh,
)
from nca_interp.analysis.verdicts.plan import SCRATCH
from nca_interp.measurement import Asked

TESTS = [
    "family", "domain", "hypothesis", "predictor", "arms", "seeds", "domains", "effect", "low", "high", "rho", "p", "tests", "p_holm",
    "p_floor", "rival", "rival_rho", "given", "p_given", "verdict", "sentence",
]  # fmt: skip
DECLARED, EXPLORATION = "declared", "exploration"
COLUMNS = {MATCHING: "distance", ENTROPY: "complexity", LEARNABILITY: "learnability"}
"""Predictor -> column of `sweep`."""


def tables(collection: Collection, tables: Tables, asked: Asked) -> Tables:
    """Tables `sweep` and `sweep_tests`; empty for a study without arms, and for checkpoints from elsewhere."""
    study = collection.study
    if study is None:
        return {"sweep": pd.DataFrame(columns=SWEEP), "sweep_tests": pd.DataFrame(columns=TESTS)}
    arms = sweep_table(study, tables)
    return {"sweep": arms, "sweep_tests": pd.DataFrame(weighed(arms, tables["pairs"]), columns=TESTS)}


def weighed(arms: pd.DataFrame, pairs: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Rows of `sweep_tests`: one declared family on the arms that count, over all domains together; exploration: each domain alone, the
    second axis, and all arms whether or not their models learned."""
    if arms.empty:
        return
    counted, placed = arms[arms.counted], arms[arms.corpus.notna()]
    names, domains = _used(counted, placed if len(placed) else arms)
    found = weigh(_gains(counted, pairs, names, domains))
    missing = left_out(arms[arms.domain.isin(domains)], names) + without_corpus(arms)
    yield from _rows(
        found, DECLARED, "", lambda h, t: sentence(h, t, found, domains) + missing * (t.predictor == MATCHING)
    )
    second = str(arms.second.iloc[0])
    for title, part, family in (
        *((domain, counted, [domain]) for domain in domains if len(domains) > 1),
        ("", arms[arms.distance.notna()], domains),
    ):
        everyone = title == ""
        own, where = _used(part[part.domain.isin(family)], arms[arms.domain.isin(family)])
        data = _gains(part, pairs, own, where)
        told = [t for t in (*weigh(data), *_second(part, pairs, own, where, second)) if not math.isnan(t.p)]
        yield from _rows(told, EXPLORATION, title, partial(exploratory, everyone=everyone), mirrored=False)


def _used(counted: pd.DataFrame, arms: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Arms that are in every domain, and these domains: those with enough arms, planned and trained, for a test; all of them where
    none has."""
    size = arms.groupby("domain", sort=False).size()
    domains = [str(d) for d in size.index[size >= MIN_ARMS]] or [str(d) for d in size.index]
    sets = [set(counted[counted.domain == d].regime) for d in domains]
    return [name for name in dict.fromkeys(counted.regime) if all(name in s for s in sets)], domains


def _gains(arms: pd.DataFrame, pairs: pd.DataFrame, names: list[str], domains: list[str]) -> list[DomainArms]:
    """What is tested: gains [seed, arm] of the seeds that have every arm, and the predictors that every arm has."""
    found = []
    for domain in domains:
        here = arms[arms.domain == domain].set_index("regime").reindex(names)
        predictors = {name: here[column].to_numpy(float) for name, column in COLUMNS.items()}
        known = {k: v for k, v in predictors.items() if len(v) and np.isfinite(v).all()}
        found.append(DomainArms(_by_seed(pairs, domain, names), known))
    return found


def _by_seed(pairs: pd.DataFrame, domain: str, names: list[str]) -> np.ndarray:
    rows = pairs[(pairs.domain == domain) & (pairs.control == SCRATCH) & (pairs.metric == "val_loss") & pairs.counted]
    wide = rows[rows.treated.isin(names)].pivot_table(index="seed", columns="treated", values="difference")
    return -wide.reindex(columns=names).dropna(axis=0).to_numpy(float)


def _second(arms: pd.DataFrame, pairs: pd.DataFrame, names: list[str], domains: list[str], second: str) -> list[Tested]:
    """The second axis alone, as entropy is tested."""
    data = []
    for domain in domains:
        values = arms[arms.domain == domain].set_index("regime").reindex(names).second_value.to_numpy(float)
        if not len(values) or not np.isfinite(values).all():
            return []
        data.append(DomainArms(_by_seed(pairs, domain, names), {ENTROPY: values}))
    return [t._replace(predictor=second) for t in weigh(data) if t.predictor == ENTROPY]


def _rows(
    found: list[Tested], family: str, domain: str, say: Callable[[Any, Tested], str], mirrored: bool = True
) -> Iterator[dict[str, Any]]:
    tests = sum(not math.isnan(t.p) for t in found)
    for t in found:
        for hypothesis in (
            HYPOTHESES.get(t.predictor, ()) if mirrored else ((HYPOTHESES.get(t.predictor) or (None,))[0],)
        ):
            own = t._asdict()
            if family == EXPLORATION:
                own |= {"verdict": "", "p_holm": math.nan, "p_floor": math.nan}
            elif hypothesis is not None:
                own["verdict"] = hypothesis.verdict(t)
            name = f"gain follows {t.predictor}" if hypothesis is None else hypothesis.name
            row = {**own, "family": family, "domain": domain, "hypothesis": name, "tests": tests}
            yield {**{k: row[k] for k in TESTS if k in row}, "sentence": say(hypothesis, t)}
