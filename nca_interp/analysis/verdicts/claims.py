"""What a study found on each of its claims: a word, the effect with its interval and n, what would change it, where the evidence is.

Claims on losses and accuracies repeat the verdict of the planned contrast, which is corrected over the whole study; those on heads that
of their own tables. Two kinds are judged here, each alone at 5 % over seeds: `faster` by the interval of the speed-up, `depends_on_swap`
and `part_carries` by the paired t-test on a difference of differences. docs/statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from nca_interp.analysis.verdicts.change import (
    CONTRADICTED,
    OPEN,
    SAME,
    SUPPORTED,
    UNKNOWN,
    UNTESTED,
    change,
)
from nca_interp.analysis.verdicts.standard_claims import standard
from nca_interp.analysis.verdicts.statistics import t_interval
from nca_interp.claims import Claim
from nca_interp.config import Study
from nca_interp.rows import each

CLAIMS = [
    "claim", "says", "source", "domain", "verdict", "effect", "low", "high", "zero", "unit", "n", "sentence", "change", "evidence",
]  # fmt: skip
Tables = dict[str, pd.DataFrame]
Row = dict[str, Any]
NOTHING = {"effect": math.nan, "low": math.nan, "high": math.nan, "zero": 0.0, "unit": "", "n": 0}


def claims_table(study: Study, tables: Tables) -> pd.DataFrame:
    """A row for each claim and domain in which it could be tested; one that could not be is one row."""
    rows = []
    for claim in study.claims if study.claims is not None else standard(study):
        found = list(_KINDS[claim.kind](claim, study, tables))
        head = {"claim": claim.name, "says": claim.says, "source": claim.source}
        rows += [{**head, **row} for row in found or [_untested("no run of this study speaks to it")]]
    return pd.DataFrame(rows, columns=CLAIMS).replace([math.inf, -math.inf], math.nan)  # unbounded: no number


def _untested(why: str, **row: Any) -> Row:
    return {
        "domain": "",
        "verdict": UNTESTED,
        **NOTHING,
        "sentence": f"Not tested: {why}.",
        "change": "",
        "evidence": "",
        **row,
    }


def _of_contrast(row: Any, contrasts: pd.DataFrame, unit: str, evidence: str, better: str = "better") -> Row:
    """The verdict of a planned contrast, one of `contrasts`, as that of a claim which says `better`."""
    word, _, negligibly = str(row.verdict).partition(",")
    told = {better: SUPPORTED, {"better": "worse", "worse": "better"}[better]: CONTRADICTED, "equivalent": SAME}
    verdict = told.get(word, UNKNOWN if word.startswith(("cannot", "no verdict")) else OPEN)
    return {
        "domain": row.domain, "verdict": verdict + ("," + negligibly if negligibly and word in told else ""),
        "effect": row.effect, "low": row.low, "high": row.high, "zero": 0.0, "unit": unit, "n": row.n,
        "sentence": row.sentence, "change": change(row, verdict, contrasts), "evidence": evidence,
    }  # fmt: skip


def _contrasts(tables: Tables, claim: Claim, metric: str) -> pd.DataFrame:
    rows = tables["contrasts"]
    return rows[(rows.metric == metric) & (rows.treated == claim.treated) & (rows.control == claim.control)]


def _lower_loss(claim: Claim, study: Study, tables: Tables) -> Iterator[Row]:
    for row in each(_contrasts(tables, claim, "val_loss")):
        yield _of_contrast(row, tables["contrasts"], "nats per token", "fig-effects")


def _reasons_better(claim: Claim, study: Study, tables: Tables) -> Iterator[Row]:
    for row in each(_contrasts(tables, claim, "accuracy")):
        yield _of_contrast(row, tables["contrasts"], "accuracy", "reasoning")


def _faster(claim: Claim, study: Study, tables: Tables) -> Iterator[Row]:
    rows = tables["speedups"]
    if claim.control != "scratch":
        yield _untested("tokens to the same loss are counted against scratch only")
        return
    for row in each(rows[(rows.regime == claim.treated) & (rows.budget == "pt")]):
        known = row.n > 1 and math.isfinite(row.low)
        verdict = UNKNOWN if not known else SUPPORTED if row.low > 1 else CONTRADICTED if row.high < 1 else OPEN
        yield {
            "domain": row.domain, "verdict": verdict, "effect": row.speedup, "low": row.low, "high": row.high, "zero": 1.0,
            "unit": "times the speed of scratch", "n": row.n, "sentence": row.sentence,
            "change": "By the interval of this number alone. Tokens of the synthetic stage counted too, it would be "
            + _with_both(rows, row), "evidence": "fig-speedup",
        }  # fmt: skip


def _with_both(rows: pd.DataFrame, row: Any) -> str:
    both = rows[(rows.regime == row.regime) & (rows.domain == row.domain) & (rows.budget == "pt+ppt")]
    return f"{float(both.speedup.iloc[0]):.2f} times." if len(both) else "less."


def _differences(tables: Tables, treated: str, control: str, domain: str) -> pd.Series:
    """Seed -> final loss of one regime minus that of another; empty where they were not compared."""
    rows = tables["pairs"]
    rows = rows[
        (rows.metric == "val_loss") & (rows.domain == domain) & (rows.treated == treated) & (rows.control == control)
    ]
    return rows.drop_duplicates("seed").set_index("seed").difference.astype(float)


def _twice(first: pd.Series, second: pd.Series) -> tuple[Row, str] | None:
    """Mean of first minus second over the seeds of both, with interval and p of the paired t-test; None for fewer than two seeds."""
    values = (first - second).dropna().to_numpy()
    if len(values) < 2 or np.ptp(values) == 0:
        return None
    found = t_interval(values)
    p = float(stats.ttest_1samp(values, 0.0).pvalue)
    return {
        "effect": found.value,
        "low": found.low,
        "high": found.high,
        "n": len(values),
        "zero": 0.0,
        "unit": "nats per token",
    }, f"p {p:.3g}, this test alone"


def _depends(claim: Claim, study: Study, tables: Tables) -> Iterator[Row]:
    assert claim.other is not None
    for domain in (d.name for d in study.domains):
        here, there = (
            _differences(tables, claim.treated, claim.control, domain),
            _differences(tables, *claim.other, domain),
        )
        if here.empty or there.empty:
            continue
        found = _twice(there, here)
        if found is None:
            yield _untested("it takes two seeds of all four regimes", domain=domain)
            continue
        row, p = found
        sure = row["low"] > 0 or row["high"] < 0
        small = max(abs(row["low"]), abs(row["high"])) < study.margin
        yield {
            "domain": domain, **row, "verdict": SUPPORTED if sure and not small else SAME if small else OPEN,
            "sentence": f"{claim.treated} minus {claim.control} is {here.mean():+.3f}, {claim.other[0]} minus {claim.other[1]} "
            f"{there.mean():+.3f}; they differ by {row['effect']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f}, {row['n']} seeds, {p}).",
            "change": "Another size of model or budget; more seeds narrow it.", "evidence": "fig-effects",
        }  # fmt: skip


def _part_carries(claim: Claim, study: Study, tables: Tables) -> Iterator[Row]:
    contrasts = tables["contrasts"]
    needed = contrasts[(contrasts.family == "transfer") & (contrasts.treated == claim.treated)].control
    trained_before = {regime.name for regime in study.regimes if regime.source is not None}
    whole = next((name for name in needed if name in trained_before), "")
    for domain in (d.name for d in study.domains):
        one, other = (_differences(tables, arm, whole, domain) for arm in (claim.treated, claim.control))
        if one.empty or other.empty:
            continue
        found = _twice(one, other)
        if found is None:
            yield _untested("it takes two seeds of both arms", domain=domain)
            continue
        row, p = found
        gain = contrasts[
            (contrasts.domain == domain)
            & (contrasts.metric == "val_loss")
            & (contrasts.treated == whole)
            & (contrasts.control == "scratch")
        ]
        helped = len(gain) and str(gain.verdict.iloc[0]).startswith("better")
        verdict = (SUPPORTED if row["low"] > 0 else CONTRADICTED if row["high"] < 0 else OPEN) if helped else UNKNOWN
        nothing = (
            ""
            if helped
            else f" There is no gain over scratch that a part could carry ({whole} against scratch: {gain.verdict.iloc[0] if len(gain) else 'not compared'})."
        )
        yield {
            "domain": domain, **row, "verdict": verdict,
            "sentence": f"Re-initialising what {claim.treated} names changes the loss by {one.mean():+.3f}, what {claim.control} names by {other.mean():+.3f}; "
            f"difference {row['effect']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f}, {row['n']} seeds, {p}).{nothing}",
            "change": "" if helped else "A setting in which the whole network, carried over, beats scratch.", "evidence": "transfer",
        }  # fmt: skip


def _complexity(claim: Claim, study: Study, tables: Tables) -> Iterator[Row]:
    rows = tables.get("sweep_tests", pd.DataFrame(columns=["family", "predictor"]))
    rows = rows[(rows.family == "declared") & (rows.predictor == "distance")]
    for row in each(rows):
        word = str(row.verdict)
        yield {
            "domain": row.domain if isinstance(row.domain, str) else "", "verdict": word if word in (SUPPORTED, CONTRADICTED) else UNKNOWN if word.startswith("cannot") else OPEN,
            "effect": row.effect, "low": row.low, "high": row.high, "zero": 0.0, "unit": "nats for one standard deviation of distance",
            "n": row.seeds, "sentence": row.sentence, "change": "More arms, and domains whose corpora lie apart; arms whose models learn their task.",
            "evidence": "sweep",
        }  # fmt: skip
    if rows.empty:
        yield _untested(
            "it takes five or more settings of complexity whose models learned their task, compared with scratch"
        )


def _heads_earlier(claim: Claim, study: Study, tables: Tables) -> Iterator[Row]:
    rows = tables.get("timing", pd.DataFrame(columns=["probe"]))
    rows = rows[rows.probe == claim.probe]
    if rows.empty:
        return
    rows = rows[
        (rows.stage == "pt") & (rows.budget == "pt") & (rows.treated == claim.treated) & (rows.control == claim.control)
    ]
    told = {"earlier": SUPPORTED, "later": CONTRADICTED, "together": SAME, "never reached": UNKNOWN}
    for row in each(rows):
        verdict = told.get(str(row.verdict), UNKNOWN if str(row.verdict).startswith(("no verdict", "cannot")) else OPEN)
        yield {
            "domain": row.domain, "verdict": verdict, "effect": row.effect, "low": row.low, "high": row.high, "zero": 0.0,
            "unit": "doublings of tokens", "n": row.n, "sentence": row.sentence, "evidence": "emergence",
            "change": "Denser checkpoints and more seeds; longer training where a head was not there at the end.",
        }  # fmt: skip


def _never_formed(tables: Tables, claim: Claim, domain: str) -> str:
    """The sentence on heads that no seed has at any checkpoint; empty where one has, or where it was not looked at."""
    seen = tables.get("emergence")
    if seen is None or seen.empty:
        return ""
    own = seen[
        (seen.stage == "pt") & (seen.regime == claim.treated) & (seen.probe == claim.probe) & (seen.domain == domain)
    ]
    return (
        f"No {claim.probe} head formed in any of {len(own)} runs. " if len(own) and (own.state == "never").all() else ""
    )


def _load_bearing(claim: Claim, study: Study, tables: Tables) -> Iterator[Row]:
    rows = tables.get("top_sets", pd.DataFrame(columns=["probe"]))
    rows = rows[rows.probe == claim.probe]
    if rows.empty:
        yield _untested("heads were not ablated (nca-interp analyze --causes)")
        return
    rows = rows[(rows.stage == "pt") & (rows.regime == claim.treated) & (rows.metric == "repeated_token_loss")]
    for row in each(rows):
        word, absent = str(row.verdict), _never_formed(tables, claim, row.domain)
        told = {"not": CONTRADICTED, "load-bearing": SUPPORTED, "inconclusive": OPEN}
        verdict = UNKNOWN if absent else told.get(word.split(" ")[0].strip(","), UNKNOWN)
        yield {
            "domain": row.domain, "verdict": verdict, "effect": row.excess, "low": row.low, "high": row.high, "zero": 0.0, "unit": "nats per token",
            "n": row.seeds, "sentence": f"{absent}Without its top {claim.probe} head(s) ({row.at}) the loss on repeated tokens rises by {row.effect:+.4f}, "
            f"by {row.excess:+.4f} more than without others of their layers ({row.low:+.4f} to {row.high:+.4f}): {word}.",
            "change": "More seeds, more heads a layer; a network in which such heads have formed.", "evidence": "causes",
        }  # fmt: skip


_KINDS: dict[str, Callable[[Claim, Study, Tables], Iterator[Row]]] = {
    "lower_loss": _lower_loss, "faster": _faster, "depends_on_swap": _depends, "part_carries": _part_carries,
    "complexity_matches": _complexity, "heads_earlier": _heads_earlier, "heads_load_bearing": _load_bearing,
    "reasons_better": _reasons_better,
}  # fmt: skip
