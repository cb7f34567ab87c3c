"""A verdict in a sentence or two, with the numbers behind it."""

from __future__ import annotations

import math
from typing import Any

from nca_interp.analysis.verdicts.judge import CANNOT_TELL, INTERIM, NO_PAIR, ONE_SEED

ADDED = "no verdict (added after the plan)"


def sentence(row: dict[str, Any], label: str, higher_is_better: bool, limit: str) -> str:
    """What a row of `contrasts` says; `limit`: floor, ceiling or nothing."""
    if row["n"] == 0:
        return f"{label}: {row['treated']} and {row['control']} have no seed in common, so no verdict is possible.{_rest(row, higher_is_better)}"
    size, span = _size(row, higher_is_better)
    head = f"{label}: {row['treated']} minus {row['control']} is {size}"
    verdict = row["verdict"]
    if verdict == ONE_SEED:
        return f"{head} with one seed; no verdict is possible.{_rest(row, higher_is_better)}"
    if verdict == INTERIM:
        return (
            f"{head} so far, with {row['n']} of {row['planned']} planned seeds; no verdict before all are there (to come: "
            f"{row['pending']}).{_rest(row, higher_is_better)}"
        )
    if verdict in (ADDED, NO_PAIR):
        return f"{head}; this comparison was not in the plan kept before the first run, so it gets no verdict."
    what = _says(row, limit)
    return f"{label}: {what}, {size}, 95 % interval {span} for this comparison alone, {row['n']} paired seeds{_p(row)}.{_rest(row, higher_is_better)}"


def _size(row: dict[str, Any], higher_is_better: bool) -> tuple[str, str]:
    if higher_is_better:
        return (
            f"{100 * row['effect']:+.1f} percentage points of accuracy",
            f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f}",
        )
    return (
        f"{row['effect']:+.4f} nats a token ({row['ppl_change_pct']:+.2f} % perplexity)",
        f"{row['low']:+.4f} to {row['high']:+.4f}",
    )


def _says(row: dict[str, Any], limit: str) -> str:
    treated, control, verdict = row["treated"], row["control"], row["verdict"]
    if verdict == CANNOT_TELL:
        return f"whether {treated} is better or worse than {control} cannot be told ({_reason(row, limit)})"
    word, _, small = verdict.partition(", ")
    says = {
        "better": f"{treated} is better than {control}",
        "worse": f"{treated} is worse than {control}",
        "equivalent": f"{treated} and {control} are equivalent within {row['margin']:g}",
    }.get(word, f"{treated} against {control} is inconclusive")
    return says + (f", negligibly (by less than the margin of {row['margin']:g})" if small else "")


def _reason(row: dict[str, Any], limit: str) -> str:
    if limit:
        few = "hardly any" if limit == "floor" else "nearly all"
        return f"both solve {few} of the {row['items']} problems, so that no difference could show: {limit}"
    if row["lost"]:
        return "the runs that were lost could have made the difference"
    return "the differences of all seeds are equal, so there is no spread to judge by; are they separate runs?"


def _p(row: dict[str, Any]) -> str:
    if math.isnan(row["p_holm"]):
        return ""
    family = (
        "tested alone, as the primary comparison"
        if row["comparisons"] == 1 and row["primary"]
        else f"corrected for {row['comparisons']} comparison(s)"
    )
    return f", p = {row['p_holm']:.3g} ({family})"


def _rest(row: dict[str, Any], higher_is_better: bool) -> str:
    parts = []
    if row["lost"]:
        names = row["lost"].split(" ")
        parts.append(f"Lost, with {'its pair' if len(names) == 1 else 'their pairs'}: {', '.join(names)}.")
    if hangs := row["hangs_on"].split():
        every = len(hangs) == row["n"]
        which = "any one of its seeds" if every else f"seed {' or seed '.join(hangs)}"
        parts.append(f"Without {which} the verdict would be another.")
    if row["later_n"]:
        size = f"{100 * row['later_effect']:+.1f} points" if higher_is_better else f"{row['later_effect']:+.4f}"
        parts.append(
            f"{row['later_n']} seed(s) that are not in the plan were added and decide nothing (with them {size})."
        )
    return "".join(f" {part}" for part in parts)
