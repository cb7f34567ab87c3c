"""How the verdicts of a report were reached: the policy in short, and the plan that was kept before the first run."""

from __future__ import annotations

from nca_interp.report.charts.numbers import plural
from nca_interp.report.page import Item, Note, Table
from nca_interp.report.tables import Tables

ANEW = "declared anew"
"""Item of a plan that was declared again before any result of it was known."""
POLICY = (
    "One family: every planned comparison of the study, each once, is corrected for together (Holm), so that a study without any effect "
    "says “better” or “worse” anywhere in at most 5 % of cases; “equivalent” is held to 5 % in the same way. A primary "
    "comparison, where the recipe names one, is tested alone and first, and the others count only if it shows a difference.",
    "Two errors: that of the seeds (paired t) and that of the documents or problems that are measured; an interval is never narrower "
    "than that of the seeds alone. Losses use the documents of the validation set, accuracies the single problems.",
    "One look: a comparison gets its verdict when all its planned seeds are there. Seeds that are added later are shown and decide nothing.",
    "Lost runs speak against their own regime: a verdict in favour of a regime that lost runs, or that nothing differs, is “cannot tell”.",
    "Speed-ups, summaries over domains, curves, maps and tables of heads and probes are exploration: their intervals are single ones.",
    "What each test assumes, its measured size and power: docs/statistics.md.",
)


def policy(tables: Tables) -> list[Item]:
    """The policy, and what the plan says."""
    items: list[Item] = [Note(text) for text in POLICY]
    if tables.plan.empty:
        return items
    changed = int(tables.plan.changed.sum())
    body = tuple(tuple(row) for row in tables.plan[["item", "declared", "now"]].itertuples(index=False))
    told = f"{plural(changed, 'item')} changed since" if changed else "nothing was changed since"
    kept = (
        "declared anew before any run that it compares was evaluated"
        if (tables.plan["item"] == ANEW).any()
        else "kept before the first run"
    )
    caption = f"The plan as it was {kept}, and as the configuration stands now: {told}."
    return [*items, Table(("item", "declared", "now"), body, caption, id="tab-plan", folded=True)]
