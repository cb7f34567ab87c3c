"""Figures of the page on one source: histograms, acceptance, mutual information, ranks, ideal predictors."""

from __future__ import annotations

import numpy as np
import pandas as pd

from nca_interp.report.charts import distributions as charts
from nca_interp.report.charts.numbers import absent, fixed, interval, listing, p_value, plural, short, signed, whole
from nca_interp.report.page import Chart, Figure, Item, Note
from nca_interp.report.pages.inspection import Inspection, band_table, words
from nca_interp.report.tables import each

PREDICTORS = ("copy", "mode", "cell-mode", "lookup", "backoff", "oracle")
STEEPEST = 7.9
"""Exponents above this are those of a search that ran to its end."""
FEW_ROWS = 5
QUANTITIES = {"cell_accuracy": "share of cells", "patch_accuracy": "share of tokens", "cell_nats": "nats a cell"}


def acceptance(source: Inspection) -> list[Item]:
    """Gzip ratios of random rules, and the share that each band takes."""
    rows = source.table("candidates")
    if rows.empty:
        return []
    accepted = rows.accepted.astype(bool)
    filtered = bool(source.spec["band"] or source.spec["where"])
    names = {True: "accepted", False: "not accepted"} if filtered else {True: "random rules", False: ""}
    edges = np.arange(0, rows.gzip_ratio.max() + 0.02, 0.02)
    data = charts.binned(rows.gzip_ratio, accepted.map(names), edges)
    data["share"] = data["count"] / len(rows)
    colors = {names[False]: charts.PLAIN, names[True]: charts.CHOSEN} if filtered else {names[True]: charts.PLAIN}
    title = "gzip ratio, as the filter scores it"
    chart = charts.histogram(data, title, colors, y="count", marks=[0.2, 0.3, 0.4, 0.5, 1.0], height=220)
    quantiles = rows.gzip_ratio.quantile([0.05, 0.5, 0.95])
    finding = f"Of {whole(len(rows))} random rules 90 % score between {fixed(quantiles[0.05], 2)} and {fixed(quantiles[0.95], 2)}, half of them below {fixed(quantiles[0.5], 2)}."
    if filtered:
        finding += f" The filter accepts {100 * accepted.mean():.1f} %."
    encoding = (
        f"Bars: number of rules by the gzip ratio of the patch tokens of their first {source.spec['score_frames']} frames; dashed: edges of the usual bands."
        + (" Blue: accepted; grey: not." if filtered else "")
    )
    return [
        Figure("fig-acceptance", finding, encoding, data, (Chart(chart, "Gzip ratios of random rules"),), columns=1),
        *band_table(source),
    ]


def histograms(source: Inspection) -> list[Item]:
    """The distribution of every measure of single rows."""
    rows = source.measures
    rows = rows[rows.sequence.notna() & rows.value.notna()]
    both = {"unfiltered": charts.PLAIN, "drawn": charts.CHOSEN}
    colors = {name: color for name, color in both.items() if name in set(rows["sample"])}
    n = len(set(rows[rows["sample"] == "drawn"].sequence))
    if 0 < n < FEW_ROWS:
        return [
            Note(
                f"{plural(n, 'row')} say nothing of a distribution: no histograms (at least {FEW_ROWS} rows).",
                quiet=True,
            )
        ]
    views, parts = [], []
    for name, part in rows.groupby("measure", sort=False):
        data = charts.binned(part.value, part["sample"], charts.even_edges(part.value))
        unit = source.summary[source.summary.measure == name].unit.iloc[0]
        views.append(
            Chart(
                charts.histogram(data, unit, {k: v for k, v in colors.items() if k in set(data.part)}),
                f"Histogram of {words(str(name))}",
                words(str(name)),
            )
        )
        parts.append(data.assign(measure=name))
    if not views:
        return [Note("No measure of single rows could be computed; the table below says why.", quiet=True)]
    beside = (
        " Grey: as many rows of random rules without any filter, for the measures that are cheap enough."
        if len(colors) > 1
        else ""
    )
    encoding = f"Bars: share of the rows in {charts.BINS} equal bins. Blue: the {plural(n, 'row')} drawn.{beside} Rows without a value (censored) are in no bar."
    data = pd.concat(parts)[["measure", "part", "low", "high", "count", "share"]].rename(columns={"part": "sample"})
    return [Figure("fig-measures", _spread(source), encoding, data, tuple(views), columns=4)]


def _spread(source: Inspection) -> str:
    parts = []
    for name in ("gzip_ratio_normalised", "lempel_ziv", "activity", "damage"):
        row = next(each(source.summary[source.summary.measure == name]), None)
        if row is not None and not absent(row.q05):
            parts.append(f"{words(name)} {fixed(row.q05, 2)} to {fixed(row.q95, 2)}, median {fixed(row.q50, 2)}")
    return f"Where 90 % of the rows lie: {'; '.join(parts)}." if parts else "The measures of single rows."


def information(source: Inspection) -> list[Item]:
    """Mutual information against lag, and the bias that was taken off."""
    rows = source.table("information")
    if rows.empty:
        return []
    first, bias, beyond = next(each(rows)), rows.bias, rows[rows.lag > 1]
    above = [rows.value > rows.value.shift(step, fill_value=-np.inf) for step in (1, -1)]
    peaks = rows[(rows.lag > 1) & (rows["name"] != "") & (rows.low > 0) & above[0] & above[1]]
    sure = "" if absent(first.low) else f" {interval(first.low, first.high, sign=False)}"
    finding = f"Neighbouring tokens share {fixed(first.value)} nats{sure}."
    if len(beyond):
        top = next(each(beyond.sort_values("value", ascending=False)))
        named = f" ({top.name})" if top.name else ""
        finding += f" Beyond lag 1 the most is {fixed(top.value)} nats at lag {top.lag}{named}."
    encoding = (
        f"Left: mean over {plural(int(first.n), 'row')} of the mutual information of two tokens of one row, shaded: 95 % interval by {source.unit}. Right: the "
        f"bias that was taken off, the mean over shuffled rows, {fixed(bias.min(), 2)} to {fixed(bias.max(), 2)} nats.{_law(source)}"
    )
    if (rows.high < 0).any() and "below 0" not in encoding:
        encoding += (
            " Below zero the correction is too large: shuffling spreads out tokens that cluster, which adds bias."
        )
    if len(peaks):
        encoding += f" Peaks where the grid puts them: {listing(f'{r.lag} ({r.name})' for r in each(peaks))}."
    views = (
        Chart(
            charts.against_lag(rows, "value", "nats", peaks),
            "Mutual information against lag",
            "mutual information, bias taken off",
        ),
        Chart(charts.against_lag(rows, "bias", "nats"), "Shuffle bias against lag", "shuffle bias"),
    )
    return [Figure("fig-information", finding, encoding, rows, views)]


def _law(source: Inspection) -> str:
    exponent, preference = source.mean("mi_exponent"), source.mean("mi_power_preference")
    if exponent is None or preference is None:
        note = source.note("mi_exponent")
        return f" No law of decay is fitted: {note}." if note else ""
    length = source.mean("mi_length")
    better = (
        f"the power law (exponent {fixed(exponent, 2)})"
        if preference > 0
        else f"the exponential (length {short(length)} tokens)"
    )
    return (
        f" Of a power law and an exponential fitted to all rows at lags up to a quarter of a row, {better} fits better "
        f"(AIC lower by {short(abs(preference))})."
    )


def ranks(source: Inspection) -> list[Item]:
    """Rank and frequency of tokens, with the fitted line and the power law of the counts."""
    rows = source.table("ranks")
    first, exponent = next(each(rows)), source.mean("zipf_exponent")
    finding = f"{whole(first.kinds)} of {whole(source.record['vocab_size'])} tokens occur; the most frequent makes up {100 * first.share:.2g} % of all."
    if exponent is not None:
        finding += f" Frequency falls as rank to the power {signed(-exponent, 2)} (language: about {signed(-1, 0)})."
    encoding = f"Points: share of all tokens of the r-th most frequent one; dashed: line fitted to ranks 1 to {whole(min(first.kinds, 1000))}."
    encoding += _tail(source)
    return [
        Figure(
            "fig-ranks",
            finding,
            encoding,
            rows,
            (Chart(charts.rank_plot(rows), "Share of tokens against rank"),),
            columns=1,
        )
    ]


def _tail(source: Inspection) -> str:
    found = {name: source.mean(f"tail_{name}") for name in ("exponent", "start", "distance", "against_lognormal", "p")}
    alpha, ratio = found["exponent"], found["against_lognormal"]
    if alpha is None or ratio is None:
        return ""
    if alpha > STEEPEST:
        return f" The counts have no heavy tail: the exponent of a discrete power law runs to the end of its range ({fixed(alpha, 1)})."
    decided = (
        "neither fits better"
        if abs(ratio) < 1.64
        else f"{'the power law' if ratio > 0 else 'the lognormal'} fits better"
    )
    p = "" if found["p"] is None else f" Goodness of fit of the power law: p {p_value(found['p'])}."
    return (
        f" Discrete power law of the counts (Clauset, Shalizi, Newman 2009): exponent {fixed(alpha, 2)} from {whole(found['start'])} occurrences up, "
        f"distance {fixed(found['distance'])}; of it and a lognormal {decided} (Vuong's statistic {signed(ratio, 1)}).{p}"
    )


def predictors(source: Inspection) -> list[Item]:
    """What copying, counting and the rule itself predict of each frame."""
    if source.record["kind"] != "nca":
        return []
    rows, told = source.table("predictors"), source.record["oracle"]
    if rows.empty:
        return [Note(told, quiet=True)]
    names = [p for p in PREDICTORS if p in set(rows.predictor)]
    rows = rows.rename(columns={"predictor": "name", "frame": "x"})
    views = []
    for quantity, unit in QUANTITIES.items():
        part = rows[rows.quantity == quantity]
        title = {"cell_accuracy": "cells predicted", "patch_accuracy": "tokens predicted", "cell_nats": "loss"}[
            quantity
        ]
        if len(part):
            views.append(
                Chart(charts.labelled(part, names, "frames seen before", unit), f"Ideal predictors: {title}", title)
            )
    last = rows[(rows.x == rows.x.max()) & (rows.quantity == "cell_accuracy")].set_index("name").value
    cover = rows[(rows.x == rows.x.max()) & (rows.quantity == "coverage") & (rows.name == "lookup")].value
    finding = f"Share of the cells predicted after {plural(int(rows.x.max()), 'frame')}: {listing(f'{n} {fixed(last[n], 2)}' for n in names)}."
    if len(cover):
        finding += f" By then {100 * cover.iloc[0]:.0f} % of the 3 × 3 neighbourhoods were seen before."
    known = set(rows["name"][rows.quantity == "cell_nats"])
    rule = "oracle: the rule itself, which nothing can beat in the mean. A model above all the others knows more of the rule than these counts give. "
    noise = "; of the oracle: the noise of the rule" if "oracle" in known else ""
    encoding = (
        f"Mean over rows with its 95 % interval by {source.unit}. copy: the frame before. mode: the most frequent state so far. cell-mode: that of the same cell. lookup: what followed "
        "the same 3 × 3 neighbourhood, else mode. backoff: the same with the cross and the cell alone before mode. "
        f"{rule if 'oracle' in names else ''}Loss of counting: with half a pseudo-count, an upper bound"
        f"{noise}. {told}"
    )
    data = rows.rename(columns={"name": "predictor", "x": "frame"})
    return [Figure("fig-predictors", finding, encoding.strip(), data, tuple(views))]
