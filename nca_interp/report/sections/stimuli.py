"""What the models were shown: which natural text, and how many tokens the random ones are drawn from."""

from __future__ import annotations

from nca_interp.report.charts.numbers import listing
from nca_interp.report.page import Item, Note
from nca_interp.report.tables import Tables, each


def text(tables: Tables) -> list[Item]:
    """One sentence for each text that natural rows came from, with the runs that were shown it."""
    if not tables.has("stimuli"):
        return []
    last = tables.stimuli.sort_values("step").groupby("run", sort=False).tail(1)
    found: list[Item] = []
    for (name, sha256), rows in last.groupby(["text", "text_sha256"], sort=False):
        of = "" if len(rows) == len(last) else f" of {listing([str(run) for run in rows.run])}"
        drawn = listing(sorted({f"{int(r.drawn_from):,} of {int(r.vocab_size):,}" for r in each(rows)}))
        rows_from = f"Natural rows{of} are from {name} (SHA-256 {str(sha256)[:12]}). " if name else ""
        found.append(Note(f"{rows_from}Random tokens{of if not name else ''} are drawn from {drawn} ids.", quiet=True))
    return found
