"""What a linear read-out finds of the rule in the residual stream, between the nulls and beyond what token counts say."""

from __future__ import annotations

import pandas as pd

from nca_interp.report.charts import distributions as lines
from nca_interp.report.charts.numbers import DASH, fixed, interval, listing, signed, whole
from nca_interp.report.page import Chart, Figure, Item, Note, Section, Table
from nca_interp.report.tables import Tables, each

WORDS = {
    "gzip_ratio": "gzip ratio", "activity": "activity", "damage": "damage", "own_cell_entropy": "transition entropy",
}  # fmt: skip
SOURCES = ("model", "random weights", "permuted labels", "token counts", "count statistics")


def rules(tables: Tables) -> list[Item]:
    """Curves by layer of one run, and the verdict of every run and attribute."""
    known = tables.decoded[tables.decoded.attribute != ""] if tables.has("decoded") else tables.decoded
    if known.empty:
        why = " ".join(dict.fromkeys(tables.decoded.sentence)) or "no pre-pre-training on NCA has finished."
        return [Note(
            f"Left out: nothing was read out of the networks (no rows in tables/decode.csv). {why} To measure it: nca-interp analyze "
            f"{tables.dir.path.name}.", quiet=True, absent=True,
        )]  # fmt: skip
    return [_figure(tables, known), _verdicts(tables, known)]


def _figure(tables: Tables, known: pd.DataFrame) -> Figure:
    regime = tables.reference if tables.reference in set(known.regime) else str(known.regime.iloc[0])
    run = str(known[known.regime == regime].run.iloc[0])
    rows = tables.decode[tables.decode.run == run]
    rows = rows[(rows.step == rows.step.max()) & (rows.frames == rows.frames.max())]
    depth = sorted(rows.layer.dropna().unique())
    flat = rows[rows.layer.isna()].drop(columns="layer").merge(pd.DataFrame({"layer": depth}), how="cross")
    every = (
        pd.concat([rows[rows.layer.notna()], flat])
        .rename(columns={"source": "name", "spearman": "value"})
        .assign(x=lambda f: f.layer)
    )
    drawn = every.copy()
    drawn.loc[drawn.name != "model", ["low", "high"]] = float("nan")
    views = []
    for attribute in known[known.run == run].attribute:
        part = drawn[drawn.attribute == attribute][["name", "x", "value", "low", "high"]]
        names = [s for s in SOURCES if s in set(part.name)]
        word = WORDS.get(attribute, attribute)
        chart = lines.labelled(part, names, "layer", "Spearman, held-out rules")
        views.append(Chart(chart, f"Read-out of {word} by layer", word))
    frames = whole(rows.frames.max())
    encoding = (
        f"{tables.label(regime)}, run {run}, last checkpoint: rank correlation of what ridge regression predicts and the truth on rules that it was "
        f"not fitted to ({whole(rows.n.max())} rules, five parts), from the mean of the residual stream over the last of {frames} frames; layer 0 is the "
        "embedding. The attribute is measured on another trajectory of the rule. token counts: how often each token occurred in these frames; count "
        "statistics: their sorted values and entropy; random weights: mean of three models; permuted labels: mean of 39. Band: 95 % over rules, the read-out fitted anew without "
        "each tenth of them. What the "
        "counts already tell is no sign that a rule was inferred. Decoded: the best layer is above each of the four, every interval above zero, at 95 % "
        "over all layers."
    )
    keep = [
        "run",
        "regime",
        "seed",
        "step",
        "attribute",
        "frames",
        "source",
        "layer",
        "spearman",
        "low",
        "high",
        "r2",
        "n",
    ]
    return Figure(
        "fig-decode",
        _finding(tables, known),
        encoding,
        tables.decode[tables.decode.frames == rows.frames.max()][keep],
        tuple(views),
        swatches=False,
        nothing=not (known.verdict == "decoded").any(),
    )


def _finding(tables: Tables, known: pd.DataFrame) -> str:
    told = [
        f"{regime} {int((rows.verdict == 'decoded').sum())} of {len(rows)}"
        for regime, rows in known.groupby("regime", sort=False)
    ]
    first = known[known.regime == tables.reference]
    sentence = (first if len(first) else known).sentence.iloc[0]
    return f"Attributes of new rules that were decoded, over runs and attributes: {listing(told)}. {sentence}"


def _verdicts(tables: Tables, known: pd.DataFrame) -> Table:
    head = (
        "run",
        "attribute",
        "verdict",
        "best layer",
        "Spearman",
        "95 % interval",
        "nearest rival",
        "it gets",
        "difference",
        "interval",
        "rules",
    )
    body = tuple(
        (
            r.run, WORDS.get(r.attribute, r.attribute), r.verdict, whole(r.layer), fixed(r.spearman), interval(r.low, r.high), r.rival or DASH,
            fixed(r.rival_spearman), signed(r.effect), interval(r.effect_low, r.effect_high), whole(r.n),
        )
        for r in each(known)
    )  # fmt: skip
    caption = "Last checkpoint of each pre-pre-training on NCA, after as many frames as the context holds. The interval of the difference is corrected for the choice of the layer."
    return Table(head, body, caption, frozenset({3, 4, 5, 7, 8, 9, 10}), "tab-decode", folded=True)


def section(tables: Tables) -> tuple[Section, ...]:
    """The read-out of rules."""
    return (Section("readout", "Is the rule in the network?", (*rules(tables),)),)
