"""Verdicts on mediation in a sentence, with the numbers behind them."""

from __future__ import annotations

import math
from typing import Any

WAYS = {
    "without": "re-initialising the {words} at the swap loses",
    "only": "carrying over the {words} alone keeps",
    "ablated": "ablating the {words} at the end of language costs",
}
MEASURES = {
    "val_loss": "the validation loss",
    "in_context_learning": "in-context learning",
    "retrieval": "verbatim retrieval",
}
STAGES = {"ppt": "the synthetic stage", "pt": "language", "ppt pt": "both stages"}


def mediation(row: dict[str, Any]) -> str:
    """What a row of `mediation` says."""
    if row["n"] == 0:
        return (
            f"{row['domain']}: no seed has all runs that the question about the {row['words']} needs: {row['verdict']}."
        )
    what = WAYS[row["way"]].format(words=row["words"])
    kind = "harm" if row["gain"] < 0 else "gain"
    head = f"{row['domain']}, {MEASURES[row['measure']]}: {what} {_span(row, 'moved')} nats"
    whole = f"of a {kind} of {_span(row, 'gain')} nats over {row['scratch']}"
    share = (
        "" if math.isnan(row["share"])
        else f", a share of {row['share']:.2f} ({row['share_low']:.2f} to {row['share_high']:.2f}), random heads of the same layers "
        f"{row['random_share']:.2f}"
    )  # fmt: skip
    few = "" if row["n"] == row["planned"] else f" of {row['planned']} planned"
    p = "" if math.isnan(row["p_adjusted"]) else f", p = {row['p_adjusted']:.3g}"
    return f"{head} {whole}{share}; {row['n']}{few} seed(s), {row['sets']} random sets{p}: {row['verdict']}."


def blinded(row: dict[str, Any]) -> str:
    """What a row of `blinded` says."""
    where = STAGES.get(row["stages"], row["stages"])
    if row["n"] == 0:
        return f"{row['domain']}: no seed has all four runs with and without the previous token in {where}."
    share = (
        "" if math.isnan(row["share"])
        else f", a share of {row['share']:.2f} ({row['share_low']:.2f} to {row['share_high']:.2f}) of it"
    )  # fmt: skip
    p = "" if math.isnan(row["p_adjusted"]) else f", p = {row['p_adjusted']:.3g}"
    return (
        f"{row['domain']}: hiding the previous token in {where} takes {_span(row, 'removed')} nats from the gain of {_span(row, 'gain')} "
        f"nats over {row['scratch']}{share}; {row['n']} seed(s){p}: {row['verdict']}."
    )


def _span(row: dict[str, Any], name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    span = "" if math.isnan(low) else f" ({low:+.4f} to {high:+.4f})"
    return f"{row[name]:+.4f}{span}"
