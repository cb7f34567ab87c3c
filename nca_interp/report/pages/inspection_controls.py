"""The ideal losses of a control, as its page shows them."""

from __future__ import annotations

from nca_interp.report.charts import distributions as charts
from nca_interp.report.charts.numbers import fixed, listing, plural
from nca_interp.report.page import Chart, Figure, Item
from nca_interp.report.pages.inspection import Inspection

TOLD = {
    "informed": "informed: knows what the row hides (its period, its map), which no model can",
    "bayes": "bayes: the exact posterior predictive of the row so far, which no model can beat on average",
    "bigram": "bigram: counts what followed the same token in this row",
    "unigram": "unigram: counts the tokens of this row",
}
"""What each predictor is."""


def ideals(source: Inspection) -> list[Item]:
    """What each ideal predictor pays, by position in the row (controls)."""
    rows = source.table("ideals")
    if rows.empty:
        return []
    means = source.record["ideal_nats"]
    names = list(means)
    finding = f"Mean loss a target in nats: {listing(f'{name} {fixed(means[name])}' for name in names)}."
    told = "; ".join(TOLD.get(name, name) for name in names)
    encoding = (
        f"Loss against position, mean over {plural(int(rows.n.max()), 'row')} in stretches of a row, with its 95 % interval by {source.unit}. {told}. "
        "Table: ideals.csv."
    )
    line = rows.assign(name=rows.predictor, x=rows["last"])
    chart = charts.labelled(line, names, "position in the row", "nats a token")
    return [Figure("fig-ideals", finding, encoding, rows, (Chart(chart, "Ideal losses by position"),), columns=1)]
