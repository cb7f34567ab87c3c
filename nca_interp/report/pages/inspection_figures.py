"""Figures of the page on one source: examples, histograms, acceptance, mutual information, ranks, ideal predictors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from nca_interp.report.charts import distributions as charts
from nca_interp.report.charts.numbers import absent, fixed, interval, listing, p_value, plural, short, signed, whole
from nca_interp.report.page import Chart, Figure, Item, Note, Widget
from nca_interp.report.pages.inspection import Inspection, band_table, words
from nca_interp.report.sections.sources import frame_tokens, player
from nca_interp.report.tables import each

AXIS = "gzip_ratio_normalised"
"""Measure by which the examples were chosen."""
TOLD = (
    "lempel_ziv",
    "token_entropy",
    "mutual_information",
    "activity",
    "own_cell_entropy",
    "damage",
)
"""Measures written beside an example."""
PREDICTORS = ("copy", "mode", "cell-mode", "lookup", "backoff", "oracle")
STEEPEST = 7.9
"""Exponents above this are those of a search that ran to its end."""
FEW_ROWS = 5
LEVELS = (4.0, 6.0, 8.0, 10.0)
"""Bits of surprise at which the shade of a token deepens."""
CHOICES = (0.01, 0.5, 1.5, 3.0)
"""Bits that the generator chose at a token of a control at which its shade deepens."""
QUANTITIES = {"cell_accuracy": "share of cells", "patch_accuracy": "share of tokens", "cell_nats": "nats a cell"}


def examples(source: Inspection) -> list[Item]:
    """Rows at low, middle and high complexity."""
    draw = {"nca": _trajectory, "dyck": _brackets, "text": _text}.get(source.record["kind"], _symbols)
    return [draw(source, example) for example in source.record["examples"]]


def _finding(source: Inspection, example: dict[str, Any]) -> str:
    # a row of text may span documents: its group is the one that gives most of it
    origin = {"rule": ", rule ", "document": ", mostly from "}.get(source.unit)
    group = f"{origin}{example['group']}" if origin else ""
    axis = f": {words(AXIS)} {fixed(example['measures'][AXIS], 2)}" if AXIS in example["measures"] else ""
    return f"{example['level'].capitalize()} complexity{axis} (row {example['row']}{group})."


def _told(example: dict[str, Any]) -> str:
    values = [f"{words(m)} {fixed(example['measures'][m], 2)}" for m in TOLD if m in example["measures"]]
    told = listing(values)
    return f"{told[:1].upper()}{told[1:]}. " if values else ""


def _trajectory(source: Inspection, example: dict[str, Any]) -> Figure:
    spec, frames = source.spec, np.asarray(example["frames"], np.uint8)
    moved = (frames[1:] != frames[:-1]).mean(axis=(1, 2))
    encoding = (
        f"{plural(len(frames), 'frame')} of a {spec['grid']} × {spec['grid']} torus, {spec['n_states']} states (colours), {spec['dt']} "
        f"step{'s' if spec['dt'] > 1 else ''} apart; {100 * moved.min():.0f} to {100 * moved.max():.0f} % of the cells change from frame to frame. "
        f"Beside it the frame's tokens, one a patch of {spec['patch']} × {spec['patch']} cells; point at one to see its patch."
    )
    widget = player(frames, example["tokens"], spec["n_states"], spec["patch"], f"{example['level']} complexity")
    name = f"fig-example-{example['level']}"
    return Figure(
        name,
        _finding(source, example),
        _told(example) + encoding,
        frame_tokens(example["tokens"]),
        widget=widget,
        swatches=False,
    )


def _brackets(source: Inspection, example: dict[str, Any]) -> Figure:
    k, tokens = source.spec["k"], np.asarray(example["tokens"])
    opens = tokens < k
    data = pd.DataFrame({
        "position": range(len(tokens)), "token": tokens, "bracket": np.where(opens, "opens", "closes"), "type": tokens % k,
        "depth": example["depth"],
    })  # fmt: skip
    chart = charts.depths(data.assign(end=data.position + 1), k)
    encoding = (
        f"The first {len(tokens)} brackets. Height: how deep the bracket lies; colour: its type (0 to {k - 1}); full colour opens, pale closes. "
        f"{int(opens.sum())} open, largest depth {int(data.depth.max())}."
    )
    name = f"fig-example-{example['level']}"
    return Figure(
        name,
        _finding(source, example),
        _told(example) + encoding,
        data,
        (Chart(chart, f"Bracket depth, {example['level']} complexity"),),
        columns=1,
    )


def _text(source: Inspection, example: dict[str, Any]) -> Figure:
    encoding = (
        f"The first {len(example['tokens'])} tokens of the row, a thin line after each. The rarer a token is in this sample the darker it is: shades change at "
        f"{listing(f'{b:g}' for b in LEVELS)} bits of -log2(share of all tokens)."
    )
    return _pieces(source, example, LEVELS, encoding)


def _symbols(source: Inspection, example: dict[str, Any]) -> Figure:
    free = sum(bits > CHOICES[0] for bits in example["bits"])
    encoding = (
        f"The first {len(example['tokens'])} tokens of the row; {free} of them carry a choice. Dark: drawn at random, shades change at "
        f"{listing(f'{b:g}' for b in CHOICES)} bits; white: what came before, and what the row hides, leave no choice."
    )
    return _pieces(source, example | {"pieces": [f"{piece} " for piece in example["pieces"]]}, CHOICES, encoding)


def _pieces(source: Inspection, example: dict[str, Any], levels: tuple[float, ...], encoding: str) -> Figure:
    level = np.searchsorted(levels, example["bits"], side="right")
    tokens = [
        {"text": piece, "level": int(shade), "title": f"token {token}, {bits:.1f} bits"}
        for piece, shade, token, bits in zip(example["pieces"], level, example["tokens"], example["bits"], strict=True)
    ]
    data = pd.DataFrame({"token": example["tokens"], "text": example["pieces"], "bits": example["bits"]})
    return Figure(
        f"fig-example-{example['level']}",
        _finding(source, example),
        _told(example) + encoding,
        data,
        widget=Widget("text", {"tokens": tokens}),
    )


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
