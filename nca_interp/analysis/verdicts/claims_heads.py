"""Claims on heads and on complexity, in the words of the tables that judge them."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from nca_interp.analysis.verdicts.change import CONTRADICTED, OPEN, SAME, SUPPORTED, UNKNOWN
from nca_interp.analysis.verdicts.not_tested import NOT_MEASURED, Row, unfinished, unplanned, untested
from nca_interp.claims import Claim
from nca_interp.config import Study
from nca_interp.rows import each

Tables = dict[str, pd.DataFrame]
FAMILY = "family"
FEWEST_ARMS = 5
"""Settings of complexity that the test of the gain over them takes (docs/sweep.md)."""


def complexity(claim: Claim, study: Study, tables: Tables) -> Iterator[Row]:
    """Does the gain fall with the distance in complexity? The declared test of `sweep_tests`."""
    rows = tables.get("sweep_tests", pd.DataFrame(columns=["family", "predictor"]))
    rows = rows[(rows.family == "declared") & (rows.predictor == "distance")]
    for row in each(rows):
        word = str(row.verdict)
        yield {
            "domain": row.domain if isinstance(row.domain, str) else "", "verdict": word if word in (SUPPORTED, CONTRADICTED) else UNKNOWN if word.startswith("cannot") else OPEN,
            "effect": row.effect, "low": row.low, "high": row.high, "zero": 0.0, "unit": "nats for one standard deviation of distance",
            "n": row.seeds, "judged": FAMILY, "sentence": row.sentence, "change": "More arms, and domains whose corpora lie apart; arms whose models learn their task.",
            "evidence": "sweep",
        }  # fmt: skip
    if rows.empty:
        arms = sum(regime.role == "complexity" for regime in study.regimes)
        if arms < FEWEST_ARMS - 1:  # the studied regime is one more
            yield unplanned(
                f"it takes {FEWEST_ARMS} settings of complexity, compared with scratch, and this study has {arms} arms of others",
                "A recipe with arms of other complexities (docs/sweep.md).",
            )
        else:
            yield untested(NOT_MEASURED, "the complexity of the sources was not measured", "nca-interp analyze STUDY")


def heads_earlier(claim: Claim, study: Study, tables: Tables) -> Iterator[Row]:
    """Do heads of a probe reach its level after fewer tokens of language?"""
    every = tables.get("timing", pd.DataFrame(columns=["probe"]))
    every = every[every.probe == claim.probe]
    rows = every
    if len(every):
        of_language = (every.stage == "pt") & (every.budget == "pt")
        rows = every[of_language & (every.treated == claim.treated) & (every.control == claim.control)]
    waiting = [
        row
        for d in study.domains
        if (row := unfinished(study, tables["contrasts"], d.name, (claim.treated, claim.control)))
    ]
    yield from waiting
    if waiting and len(rows):
        rows = rows[~rows.domain.isin([row["domain"] for row in waiting])]
    elif rows.empty and not waiting:
        yield _not_over_training(claim, tables, len(every) > 0)
    told = {"earlier": SUPPORTED, "later": CONTRADICTED, "together": SAME, "never reached": UNKNOWN}
    for row in each(rows):
        verdict = told.get(str(row.verdict), UNKNOWN if str(row.verdict).startswith(("no verdict", "cannot")) else OPEN)
        yield {
            "domain": row.domain, "verdict": verdict, "effect": row.effect, "low": row.low, "high": row.high, "zero": 0.0,
            "unit": "doublings of tokens", "n": row.n, "judged": FAMILY, "sentence": row.sentence, "evidence": "emergence",
            "change": "Denser checkpoints and more seeds; longer training where a head was not there at the end.",
        }  # fmt: skip


def _not_over_training(claim: Claim, tables: Tables, elsewhere: bool) -> Row:
    """Why no comparison of times is there: the probe was not measured over training, of one of the regimes, or the pair is not planned."""
    seen = tables.get("emergence")
    known = (
        set() if seen is None or seen.empty else set(seen[(seen.stage == "pt") & (seen.probe == claim.probe)].regime)
    )
    unseen = [name for name in (claim.treated, claim.control) if name not in known]
    if unseen:
        of_whom = f" in runs of {' and '.join(unseen)}" if known or elsewhere else ""
        return untested(
            NOT_MEASURED, f"{claim.probe} was not measured over training{of_whom}",
            "nca-interp analyze STUDY measures every probe on every checkpoint (the runs must keep some on the way: docs/emergence.md).",
        )  # fmt: skip
    return unplanned(f"when heads of {claim.treated} and of {claim.control} appear is not compared")


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


def load_bearing(claim: Claim, study: Study, tables: Tables) -> Iterator[Row]:
    """Does the model get worse without the top heads of a probe than without others?"""
    rows = tables.get("top_sets", pd.DataFrame(columns=["probe"]))
    rows = rows[rows.probe == claim.probe]
    todo = "nca-interp analyze STUDY --causes"
    if rows.empty:
        yield untested(NOT_MEASURED, "heads were not ablated (nca-interp analyze --causes)", todo)
        return
    rows = rows[(rows.stage == "pt") & (rows.regime == claim.treated) & (rows.metric == "repeated_token_loss")]
    if rows.empty:
        waiting = [
            row
            for d in study.domains
            if (row := unfinished(study, tables["contrasts"], d.name, (claim.treated, "scratch")))
        ]
        why = f"heads of {claim.treated} were not ablated at the end of pre-training"
        yield waiting[0] if waiting else untested(NOT_MEASURED, why, todo)
    for row in each(rows):
        word, absent = str(row.verdict), _never_formed(tables, claim, row.domain)
        told = {"not": CONTRADICTED, "load-bearing": SUPPORTED, "inconclusive": OPEN}
        verdict = UNKNOWN if absent else told.get(word.split(" ")[0].strip(","), UNKNOWN)
        yield {
            "domain": row.domain, "verdict": verdict, "effect": row.excess, "low": row.low, "high": row.high, "zero": 0.0, "unit": "nats per token",
            "n": row.seeds, "judged": FAMILY, "sentence": f"{absent}Without its top {claim.probe} head(s) ({row.at}) the loss on repeated tokens rises by {row.effect:+.4f}, "
            f"by {row.excess:+.4f} more than without others of their layers ({row.low:+.4f} to {row.high:+.4f}): {word}.",
            "change": "More seeds, more heads a layer; a network in which such heads have formed.", "evidence": "causes",
        }  # fmt: skip
