"""What a study found on each of its claims: a word, the effect with its interval and n, what would change it, where the evidence is.

Claims on losses and accuracies repeat the verdict of the planned contrast, which is corrected over the whole study; those on heads that
of their own tables. Three kinds are judged here, each alone at 5 % over seeds: `faster` by the interval of the speed-up, `depends_on_swap`
and `part_carries` by the paired t-test on a difference of differences. A column says which of this it was (JUDGED). docs/statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from nca_interp.analysis.verdicts.change import CONTRADICTED, OPEN, SAME, SUPPORTED, UNKNOWN, alone, change, gate_of
from nca_interp.analysis.verdicts.claims_heads import FAMILY, complexity, heads_earlier, load_bearing
from nca_interp.analysis.verdicts.judge import INTERIM
from nca_interp.analysis.verdicts.not_tested import (
    NOT_FINISHED,
    NOT_PLANNED,
    Row,
    absent,
    finish,
    unfinished,
    unplanned,
    untellable,
)
from nca_interp.analysis.verdicts.sentences import ADDED
from nca_interp.analysis.verdicts.standard_claims import standard
from nca_interp.analysis.verdicts.statistics import t_interval
from nca_interp.claims import Claim
from nca_interp.config import Study
from nca_interp.rows import each

CLAIMS = [
    "claim", "says", "source", "domain", "verdict", "effect", "low", "high", "zero", "unit", "n", "judged", "sentence", "change", "evidence",
]  # fmt: skip
FIRST, CORRECTED, CLOSED, ALONE = "first", "corrected", "closed", "alone"
JUDGED = (FIRST, CORRECTED, CLOSED, ALONE, FAMILY)
"""How a verdict was come to: tested alone as the primary comparison; corrected over all planned comparisons; the same, and kept open by
the primary comparison; by itself at 5 %, not corrected with the others; corrected within the table of its own measurement."""
Tables = dict[str, pd.DataFrame]


def claims_table(study: Study, tables: Tables) -> pd.DataFrame:
    """A row for each claim and domain in which it could be tested; one that could not be is one row."""
    rows = []
    for claim in study.claims if study.claims is not None else standard(study):
        found = list(_KINDS[claim.kind](claim, study, tables))
        head = {"claim": claim.name, "says": claim.says, "source": claim.source}
        told = [row for row in found if row["verdict"] != NOT_PLANNED or math.isfinite(row["effect"])] or found[:1]
        rows += [{**head, **row} for row in told or [unplanned("no comparison of this study speaks to it")]]
    return pd.DataFrame(rows, columns=CLAIMS).replace([math.inf, -math.inf], math.nan)  # unbounded: no number


def _of_contrast(row: Any, contrasts: pd.DataFrame, unit: str, evidence: str, better: str = "better") -> Row:
    """The verdict of a planned contrast, one of `contrasts`, as that of a claim which says `better`."""
    word, _, negligibly = str(row.verdict).partition(",")
    told = {better: SUPPORTED, {"better": "worse", "worse": "better"}[better]: CONTRADICTED, "equivalent": SAME}
    verdict = told.get(word, UNKNOWN if word.startswith(("cannot", "no verdict")) else OPEN)
    return {
        "domain": row.domain, "verdict": verdict + ("," + negligibly if negligibly and word in told else ""),
        "effect": row.effect, "low": row.low, "high": row.high, "zero": 0.0, "unit": unit, "n": row.n, "judged": _judged(row, verdict, contrasts),
        "sentence": row.sentence, "change": change(row, verdict, contrasts), "evidence": evidence,
    }  # fmt: skip


def _judged(row: Any, verdict: str, contrasts: pd.DataFrame) -> str:
    if str(row.primary).lower() in ("true", "1", "1.0"):
        return FIRST
    return CLOSED if verdict == OPEN and gate_of(row, contrasts) is not None else CORRECTED


def _planned(claim: Claim, study: Study, tables: Tables, metric: str, unit: str, evidence: str) -> Iterator[Row]:
    """The verdicts of the planned contrasts of a claim; what waits for runs, or came after the plan, has none."""
    for row in each(_contrasts(tables, claim, metric)):
        told = _of_contrast(row, tables["contrasts"], unit, evidence)
        if str(row.verdict) == INTERIM:
            told |= {"verdict": NOT_FINISHED, "judged": "", "change": finish(study)}
        elif str(row.verdict) == ADDED:
            told |= {
                "verdict": NOT_PLANNED,
                "judged": "",
                "change": "A study of its own, whose plan names this comparison before the first run.",
            }
        yield told


def _contrasts(tables: Tables, claim: Claim, metric: str) -> pd.DataFrame:
    rows = tables["contrasts"]
    return rows[(rows.metric == metric) & (rows.treated == claim.treated) & (rows.control == claim.control)]


def _lower_loss(claim: Claim, study: Study, tables: Tables) -> Iterator[Row]:
    yield from _planned(claim, study, tables, "val_loss", "nats per token", "fig-effects")


def _reasons_better(claim: Claim, study: Study, tables: Tables) -> Iterator[Row]:
    found = list(_planned(claim, study, tables, "accuracy", "accuracy", "reasoning"))
    if not found and not any(domain.qa for domain in study.domains):
        found = [
            unplanned(
                "no domain of this study has questions to fine-tune on", "A domain with questions (docs/reasoning.md)."
            )
        ]
    yield from found


def _faster(claim: Claim, study: Study, tables: Tables) -> Iterator[Row]:
    rows, contrasts = tables["speedups"], tables["contrasts"]
    if claim.control != "scratch":
        yield unplanned(
            "tokens to the same loss are counted against scratch only", "The claim with scratch as its control."
        )
        return
    pair, rows = (claim.treated, "scratch"), rows[(rows.regime == claim.treated) & (rows.budget == "pt")]
    for domain in (d.name for d in study.domains):
        mine = rows[rows.domain == domain]
        if row := unfinished(study, contrasts, domain, pair) or (
            absent(study, contrasts, domain, pair) if mine.empty else None
        ):
            yield row
            continue
        for row in each(mine):
            known = row.n > 1 and math.isfinite(row.low)
            verdict = UNKNOWN if not known else SUPPORTED if row.low > 1 else CONTRADICTED if row.high < 1 else OPEN
            more = (
                f" {alone(math.log(row.speedup), getattr(row, 'log_sd', math.nan), int(row.n))}"
                if verdict == OPEN
                else ""
            )
            yield {
                "domain": row.domain, "verdict": verdict, "effect": row.speedup, "low": row.low, "high": row.high, "zero": 1.0,
                "unit": "times the speed of scratch", "n": row.n, "judged": ALONE, "sentence": row.sentence,
                "change": "By the interval of this number alone. Tokens of the synthetic stage counted too, it would be "
                + _with_both(tables["speedups"], row) + more, "evidence": "fig-speedup",
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


def _twice(first: pd.Series, second: pd.Series) -> tuple[Row, str, str] | None:
    """Mean of first minus second over the seeds of both, with interval, p of the paired t-test and the seeds that it takes to find it;
    None for fewer than two seeds."""
    values = (first - second).dropna().to_numpy()
    if len(values) < 2 or np.ptp(values) == 0:
        return None
    found = t_interval(values)
    p = float(stats.ttest_1samp(values, 0.0).pvalue)
    return (
        {
            "effect": found.value,
            "low": found.low,
            "high": found.high,
            "n": len(values),
            "zero": 0.0,
            "unit": "nats per token",
            "judged": ALONE,
        },
        f"p {p:.3g}, this test alone",
        alone(found.value, float(values.std(ddof=1)), len(values)),
    )


def _no_pairs(
    study: Study, tables: Tables, domain: str, pairs: Sequence[tuple[str, str]], found: Sequence[pd.Series]
) -> list[Row]:
    """What is said instead of a difference of two differences: nothing ([]) where all are there, else why they are not."""
    if waiting := unfinished(study, tables["contrasts"], domain, *pairs):
        return [waiting]
    if not any(one.empty for one in found):
        return []
    gone = absent(study, tables["contrasts"], domain, *pairs)
    return [
        gone
        or unplanned(
            f"{' and '.join(f'{t} against {c}' for t, c in pairs)} are not compared on {domain}", domain=domain
        )
    ]


def _too_few(why: str, domain: str) -> Row:
    return untellable(why, "A second seed.", domain)


def _depends(claim: Claim, study: Study, tables: Tables) -> Iterator[Row]:
    assert claim.other is not None
    pairs = ((claim.treated, claim.control), claim.other)
    for domain in (d.name for d in study.domains):
        here, there = (_differences(tables, *pair, domain) for pair in pairs)
        if none := _no_pairs(study, tables, domain, pairs, (here, there)):
            yield from none
            continue
        found = _twice(there, here)
        if found is None:
            yield _too_few("it takes two seeds of all four regimes", domain)
            continue
        row, p, more = found
        sure = row["low"] > 0 or row["high"] < 0
        small = max(abs(row["low"]), abs(row["high"])) < study.margin
        yield {
            "domain": domain, **row, "verdict": SUPPORTED if sure and not small else SAME if small else OPEN,
            "sentence": f"{claim.treated} minus {claim.control} is {here.mean():+.3f}, {claim.other[0]} minus {claim.other[1]} "
            f"{there.mean():+.3f}; they differ by {row['effect']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f}, {row['n']} seeds, {p}).",
            "change": more if not sure and not small else "Another size of model or budget; more seeds narrow it.", "evidence": "fig-effects",
        }  # fmt: skip


def _part_carries(claim: Claim, study: Study, tables: Tables) -> Iterator[Row]:
    contrasts = tables["contrasts"]
    needed = contrasts[(contrasts.family == "transfer") & (contrasts.treated == claim.treated)].control
    trained_before = {regime.name for regime in study.regimes if regime.source is not None}
    whole = next((name for name in needed if name in trained_before), "")
    if not whole:
        yield unplanned(f"{claim.treated} is compared with no regime that it comes from")
        return
    for domain in (d.name for d in study.domains):
        pairs = ((claim.treated, whole), (claim.control, whole))
        one, other = (_differences(tables, *pair, domain) for pair in pairs)
        if none := _no_pairs(study, tables, domain, pairs, (one, other)):
            yield from none
            continue
        found = _twice(one, other)
        if found is None:
            yield _too_few("it takes two seeds of both arms", domain)
            continue
        row, p, more = found
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
            "change": (more if verdict == OPEN else "More seeds narrow it; another size or budget may change it.") if helped else "A setting in which the whole network, carried over, beats scratch.",
            "evidence": "transfer",
        }  # fmt: skip


_KINDS: dict[str, Callable[[Claim, Study, Tables], Iterator[Row]]] = {
    "lower_loss": _lower_loss, "faster": _faster, "depends_on_swap": _depends, "part_carries": _part_carries,
    "complexity_matches": complexity, "heads_earlier": heads_earlier, "heads_load_bearing": load_bearing,
    "reasons_better": _reasons_better,
}  # fmt: skip
