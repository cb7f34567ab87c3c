"""What layers carry: knock-outs, the logit lens, and direct paths between two heads."""

from __future__ import annotations

import numpy as np
import pandas as pd

from nca_interp.report.charts import causes as charts
from nca_interp.report.charts.numbers import interval, plural, signed, whole
from nca_interp.report.page import Chart, Choice, Figure, Item, Table
from nca_interp.report.sections.cause_rows import Causes, choice
from nca_interp.report.tables import Tables, each


def layers(tables: Tables, found: Causes) -> list[Item]:
    """What is lost without a layer, its attention or its MLP."""
    rows = found.of("knock_out").assign(value=lambda f: f.harm)
    if rows.empty:
        return []
    sites = {"layer": "whole layer", "attn": "attention", "mlp": "MLP"}
    present = [s for s in sites if s in set(rows.site)]
    metrics = sorted(found.metrics, key=lambda m: m != "own_loss")
    place = found.places[0]
    top = rows[(rows.site == present[0]) & (rows.metric == metrics[0]) & (rows.place == place)]
    parts = []
    for regime, part in top.groupby("regime", sort=False):
        means = part.groupby("layer").value.mean()
        parts.append(
            f"{regime} {int(np.argmax(means))} ({signed(means.max())})" if means.max() > 0 else f"{regime} none"
        )
    finding = (
        f"The {sites[present[0]]} whose absence harms {metrics[0]} most, {place}: {', '.join(parts) or 'not measured'}."
    )
    encoding = "Harm to the chosen metric when nothing is added by a layer, its attention or its MLP. Thick: mean over seeds; thin: single seeds. Exploration: no test was made."
    choices = (choice(found, metrics), Choice("site", "Left out", tuple((s, sites[s]) for s in present)))
    return [_depth("fig-layers", finding, encoding, tables, found, rows, ["metric", "site"], choices, charts.HARM)]


def lens(tables: Tables, found: Causes) -> list[Item]:
    """What each layer would say if it were the last."""
    rows = found.of("logit_lens").assign(stimulus=lambda f: f["at"])
    if rows.empty:
        return []
    words = {
        "nll": "loss, nats",
        "kl": "KL(final, layer), nats",
        "agreement": "share of equal likeliest tokens",
        "entropy": "entropy, nats",
    }
    metrics = Choice("metric", "Read", tuple((m, words.get(m, m)) for m in dict.fromkeys(rows.metric)))
    stimuli = Choice(
        "stimulus",
        "On",
        tuple((s, s.replace("_", " ")) for s in sorted(dict.fromkeys(rows.stimulus), key=lambda s: s != "natural")),
    )
    place = found.places[0]
    kl = rows[(rows.metric == "kl") & (rows.stimulus == stimuli.options[0][0]) & (rows.place == place)]
    parts = []
    for regime, part in kl.groupby("regime", sort=False):
        means = part.groupby("layer").value.mean()
        parts.append(f"{regime} {whole(means[means <= 0.5 * means.iloc[0]].index[0])} of {whole(means.index[-1])}")
    finding = (
        f"First layer whose KL to the final prediction is at most half of the embedding’s, {place}, {stimuli.options[0][1]}: "
        f"{', '.join(parts) or 'not measured'}."
    )
    encoding = "The residual stream before each layer through the final norm and the unembedding; the last is the model itself. Thick: mean over seeds; thin: single seeds."
    return [
        _depth("fig-lens", finding, encoding, tables, found, rows, ["metric", "stimulus"], (metrics, stimuli), "value")
    ]


def _depth(
    name: str,
    finding: str,
    encoding: str,
    tables: Tables,
    found: Causes,
    rows: pd.DataFrame,
    chosen: list[str],
    choices: tuple[Choice, ...],
    y_title: str,
) -> Figure:
    keep = ["place", "regime", "seed", "run", "layer", *chosen, "value", "n", "unit"]
    where = " && ".join(f"datum.{c} == {c}" for c in chosen)
    views = []
    for place in found.places:
        part = rows[rows.place == place][["regime", "run", "layer", *chosen, "value"]]
        if len(part):
            mean = part.groupby(["regime", "layer", *chosen], sort=False)["value"].mean().reset_index()
            views.append(Chart(charts.by_layer(part, mean, tables.main, where, y_title), f"By layer, {place}", place))
    return Figure(name, finding, encoding, rows[keep], tuple(views), choices=choices)


def edges(found: Causes) -> list[Item]:
    """Direct paths from previous-token to induction heads."""
    rows = found.of("edge")
    if rows.empty:
        return []
    body = tuple(
        (
            f"{r.regime}, {r.place}, seed {whole(r.seed)}", f"{whole(r.from_layer)}.{whole(r.from_head)} → {whole(r.layer)}.{whole(r.head)}", signed(r.value, 4),
            interval(r.value - 1.96 * r.sd / r.n**0.5, r.value + 1.96 * r.sd / r.n**0.5, 4), signed(r.full, 4), whole(r.n),
        )
        for r in each(rows)
    )  # fmt: skip
    low = rows.value - 1.96 * rows.sd / rows.n**0.5
    clear = int((low > 0).sum())
    head = (
        "model",
        "layer.head",
        "effect of the path",
        "95 % interval over sequences",
        "effect of losing the later head",
        "sequences",
    )
    caption = f"{plural(len(rows), 'path')} from a previous-token to an induction head; {clear if clear else 'none'} of them clearly harm repeated_token_loss when cut (interval above zero, uncorrected)."
    return [Table(head, body, caption, frozenset(range(2, 6)), "tab-edges", folded=len(body) > 8)]
