"""Loss of checkpoints from elsewhere on one text, and what regimes with shared seeds say."""

from __future__ import annotations

from nca_interp.report.charts.numbers import DASH, fixed, listing, whole
from nca_interp.report.page import Item, Note, Section, Table
from nca_interp.report.sections.outcome import verdict_box
from nca_interp.report.tables import Tables, each

NO_PLAN = (
    "These models were trained elsewhere, and no plan of comparisons was kept before their results: all verdicts here are exploratory. The tests are those of a "
    "study: the first regime that is not scratch against every other, paired by seed, all comparisons corrected for together (Holm), with the error of "
    "the finite text."
)


def section(tables: Tables) -> tuple[Section, ...]:
    """The losses, and the contrasts where regimes share seeds."""
    if tables.collection is None or tables.val_losses.empty:
        return ()
    rows = tables.val_losses
    last = rows[rows.step == rows.groupby("run").step.transform("max")]
    body = tuple(
        (tables.names.get(r.run, r.run), tables.label(r.regime), whole(r.seed) if r.seed == r.seed else DASH, whole(r.step),
         fixed(r.val_loss, 4), whole(r.targets))
        for r in each(last)
    )  # fmt: skip
    texts = listing(sorted({str(t) for t in last.text}))
    caption = (
        f"Loss at the last checkpoint on {texts}, nats a token; tables/val_losses.csv has every checkpoint. Comparable "
        f"between models of the same tokens ({last.rows_sha256.nunique()} set(s) of tokens here)."
    )
    head = ("model", "regime", "seed", "step", "loss", "targets")
    items: list[Item] = [Table(head, body, caption, frozenset({2, 3, 4, 5}), "tab-val-loss")]
    items += [Note(f"{tables.names.get(r.run, r.run)}: {r.note}.", quiet=True) for r in each(tables.val_loss_notes)]
    if len(tables.contrasts):
        items += [Note(NO_PLAN), *verdict_box(tables)]
    return (Section("val-loss", "Loss on one text, and regimes over seeds", tuple(items)),)
