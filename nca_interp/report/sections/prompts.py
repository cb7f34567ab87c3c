"""The user's own text: loss and predictions token by token, lens, what each part adds to the logits, patterns."""

from __future__ import annotations

import json
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from nca_interp.readers import read_arrays
from nca_interp.report.charts import cells
from nca_interp.report.charts.numbers import fixed, listing, plural, signed, whole
from nca_interp.report.page import Chart, Choice, Figure, Item, Note, Section, Table, Widget
from nca_interp.report.tables import Tables, each

RUNS, PROMPTS = 2, 3
"""Shown: models, and prompts of each; the tables hold all."""
LEVELS = (1.0, 2.0, 4.0, 8.0)
"""Nats at which the shade of a token changes."""
FAINT = 0.02
"""Attention below this is left blank."""
WHERE = "datum.shown == shown"


def section(tables: Tables) -> tuple[Section, ...]:
    """Own prompts, where a text was given."""
    if not (tables.has("prompts") or tables.has("prompt_notes")):
        return ()
    notes = tables.prompt_notes.assign(
        what=lambda f: f.prompt.where(f.prompt != "", "") + np.where(f.prompt != "", ": ", "") + f.note
    )
    told = [Note(f"{text}.", quiet=True) for text in dict.fromkeys(notes.what)]
    if not tables.has("prompts"):
        return (Section("prompts", "On your own text", (*told,)),)
    shown = _shown(tables)
    items: list[Item] = [_text(tables, key, rows) for key, rows in shown.groupby("shown", sort=False)]
    if tables.has("prompt_lens"):
        items.append(_lens(tables, shown))
    if tables.has("prompt_parts"):
        items += [_layers(tables, shown), _heads(tables, shown), *_neurons(tables, shown)]
    items += _patterns(tables, shown)
    total = tables.prompts.groupby(["run", "prompt"]).ngroups
    seen = shown.shown.nunique()
    intro = "" if seen == total else f"{seen} of {plural(total, 'prompt')} of all models are shown; tables/prompts.csv and those beside it hold all."  # fmt: skip
    return (Section("prompts", "On your own text", (*items, *told), intro=intro),)


def _shown(tables: Tables) -> pd.DataFrame:
    """Rows of `prompts` of those that are shown, with `shown`, their name on the page, and `at`, place and text of the token."""
    rows = tables.prompts
    runs = list(dict.fromkeys(rows.run))[:RUNS]
    rows = rows[rows.run.isin(runs)]
    keep = [p for _, part in rows.groupby("run", sort=False) for p in [(part.run.iloc[0], q) for q in list(dict.fromkeys(part.prompt))[:PROMPTS]]]  # fmt: skip
    rows = rows[[(r.run, r.prompt) in keep for r in each(rows)]]
    return rows.assign(shown=_names(tables, rows), at=[_place(r.position, r.text) for r in each(rows)])


def _names(tables: Tables, rows: pd.DataFrame) -> list[str]:
    labels = dict(zip(tables.runs.run, tables.runs.label, strict=True))
    several = rows.run.nunique() > 1
    return [f"{labels.get(r.run, r.run)}, {r.prompt}" if several else str(r.prompt) for r in each(rows)]


def _place(position: Any, text: Any) -> str:
    return f"{int(position)} {str(text).replace(' ', '·')}"


def _choice(shown: pd.DataFrame) -> Choice:
    return Choice("shown", "Prompt", tuple((s, s) for s in dict.fromkeys(shown.shown)))


def _joined(rows: pd.DataFrame, shown: pd.DataFrame, *more: str) -> pd.DataFrame:
    """Rows of another table of the prompts that are shown."""
    return rows.merge(shown[["run", "prompt", "position", "shown", *more]], on=["run", "prompt", "position"])


def _text(tables: Tables, key: Any, rows: pd.DataFrame) -> Figure:
    said = _joined(tables.prompt_predictions, rows)
    best = {
        p: listing(f"{r.text!r} {fixed(r.probability, 2)}" for r in each(part)) for p, part in said.groupby("position")
    }
    tokens = []
    for r in each(rows):
        lost = "first token" if np.isnan(r.nll) else f"{fixed(r.nll, 2)} nats, rank {whole(r.rank)}"
        title = f"{int(r.position)}: {lost}. Next: {best.get(r.position, '')}"
        level = 0 if np.isnan(r.nll) else int(np.searchsorted(LEVELS, r.nll, side="right"))
        tokens.append({"text": r.text, "level": level, "title": title})
    worst = rows.sort_values("nll", ascending=False).iloc[0]
    finding = (
        f"{key}: {fixed(rows.nll.mean(), 2)} nats a token; least expected: {worst.text!r}, {fixed(worst.nll, 2)} nats."
    )
    encoding = (
        "The darker a token, the more nats it cost given all before it: shades change at "
        f"{listing(f'{x:g}' for x in LEVELS)}. Point at a token to read loss, rank and what the model expects next."
    )
    data = rows[["run", "prompt", "position", "token", "text", "nll", "rank"]].assign(next=[best.get(p, "") for p in rows.position])  # fmt: skip
    number = list(dict.fromkeys(tables.prompts.run + tables.prompts.prompt)).index(worst.run + worst.prompt)
    return Figure(
        f"fig-prompt-{number}", finding, encoding, data, widget=Widget("text", {"tokens": tokens}), swatches=False
    )


def _lens(tables: Tables, shown: pd.DataFrame) -> Figure:
    rows = _joined(tables.prompt_lens, shown, "at").assign(value=lambda f: f.probability, x_order=lambda f: f.position, y_order=lambda f: f.layer)  # fmt: skip
    rows["layer"] = rows.layer.astype(int)
    tip = [alt.Tooltip("at:N"), alt.Tooltip("layer:O"), alt.Tooltip("text:N", title="likeliest next"), *(alt.Tooltip(f"{c}:Q", format=".3f") for c in ("probability", "nll", "kl"))]  # fmt: skip
    drawn = rows[["shown", "at", "layer", "text", "value", "probability", "nll", "kl", "x_order", "y_order"]]
    chart = cells.cells(drawn, ("at", "token"), ("layer", "layer"), cells.share_scale(), tip, WHERE)
    first = rows[rows.shown == rows.shown.iloc[0]]
    end = first[first.position == first.position.max()]
    final = end[end.layer == end.layer.max()].iloc[0]
    since = end[end.token != final.token].layer.max()
    when = "at every layer" if np.isnan(since) else f"from layer {whole(since + 1)} of {whole(end.layer.max())} on"
    finding = f"Behind the last token of {first.shown.iloc[0]} the likeliest next token is {final.text!r} {when}."
    encoding = (
        "Logit lens: the residual stream before each layer through the final norm and the unembedding; the top row is the model itself. "
        "Colour: probability of the likeliest next token; point at a cell for the token, its probability, the loss of the true next token "
        "and KL(final, layer)."
    )
    data = rows[["shown", "run", "prompt", "position", "layer", "text", "probability", "target_text", "nll", "kl"]]
    return Figure("fig-prompt-lens", finding, encoding, data, (Chart(chart, "Logit lens by token"),), choices=(_choice(shown),), columns=1, swatches=False)  # fmt: skip


def _last(tables: Tables, shown: pd.DataFrame) -> pd.DataFrame:
    """Contributions at the last position of every prompt that is shown."""
    rows = _joined(tables.prompt_parts, shown)
    return rows[rows.position == rows.groupby(["run", "prompt"]).position.transform("max")]


def _layers(tables: Tables, shown: pd.DataFrame) -> Figure:
    rows = _last(tables, shown)
    rows = rows[rows.part.isin(["embedding", "bias", "attn", "mlp"])]
    tip = [alt.Tooltip("layer:O"), alt.Tooltip("value:Q", title="adds", format="+.3f")]
    views = []
    for part, word in (("attn", "attention"), ("mlp", "MLP")):
        drawn = rows[rows.part == part].assign(value=lambda f: f.centred)[["shown", "layer", "value"]]
        drawn["layer"] = drawn.layer.astype(int)
        views.append(
            Chart(cells.bars(drawn, "logit above mean", tip, WHERE), f"What the {word} of each layer adds", word)
        )
    first = rows[rows.shown == rows.shown.iloc[0]]
    best = first[first.part.isin(["attn", "mlp"])].sort_values("centred", ascending=False).iloc[0]
    word = {"attn": "the attention", "mlp": "the MLP"}[best.part]
    finding = (
        f"{first.shown.iloc[0]}: {first.target_text.iloc[0]!r} has a logit {signed(first.centred.sum(), 2)} above the vocabulary's mean; "
        f"{word} of layer {whole(best.layer)} adds most, {signed(best.centred, 2)}."
    )
    encoding = (
        "Direct logit attribution at the last token, of the likeliest next one: what each part writes to the residual stream, through the "
        "final norm with its scale held, to that token's logit less the mean logit of all tokens. With embedding and biases (in the data) "
        "the bars sum to it exactly. What a part does through later parts is not in it."
    )
    data = rows[["shown", "run", "prompt", "position", "target_text", "part", "layer", "value", "centred"]]
    return Figure("fig-prompt-layers", finding, encoding, data, tuple(views), choices=(_choice(shown),), swatches=False)


def _heads(tables: Tables, shown: pd.DataFrame) -> Figure:
    rows = _last(tables, shown)
    rows = rows[rows.part == "head"].assign(
        value=lambda f: f.centred, x_order=lambda f: f["head"], y_order=lambda f: f.layer
    )
    rows = rows.astype({"layer": int, "head": int})
    tip = [alt.Tooltip("layer:O"), alt.Tooltip("head:O"), alt.Tooltip("value:Q", title="adds", format="+.3f")]
    drawn = rows[["shown", "layer", "head", "value", "x_order", "y_order"]]
    scale = cells.signed_scale(float(rows.value.abs().max()) or 1.0)
    chart = cells.cells(drawn, ("head", "head"), ("layer", "layer"), scale, tip, WHERE)
    first = rows[rows.shown == rows.shown.iloc[0]].sort_values("value")
    top = listing(f"{r.layer}.{r.head} {signed(r.value, 2)}" for r in each(first.iloc[::-1][:3]))
    finding = f"{first.shown.iloc[0]}: the heads that add most to {first.target_text.iloc[0]!r} at the last token are {top}; {first.layer.iloc[0]}.{first['head'].iloc[0]} takes most away, {signed(first.value.iloc[0], 2)}."  # fmt: skip
    encoding = "The same for single heads (layer.head). Blue adds to the logit, red takes away."
    data = rows[["shown", "run", "prompt", "layer", "head", "value", "centred"]]
    return Figure("fig-prompt-heads", finding, encoding, data, (Chart(chart, "What each head adds"),), choices=(_choice(shown),), columns=1, swatches=False)  # fmt: skip


def _neurons(tables: Tables, shown: pd.DataFrame) -> list[Item]:
    rows = _last(tables, shown)
    rows = rows[rows.part == "neuron"]
    if rows.empty:
        return []
    body = []
    for name, part in rows.groupby("shown", sort=False):
        order = part.sort_values("centred")
        for r in each(pd.concat([order.iloc[::-1][:5], order[:5]]).drop_duplicates()):
            body.append((str(name), str(r.target_text), f"{int(r.layer)}.{int(r.neuron)}", signed(r.centred, 3)))
    caption = "Neurons that add most to the logit of the next token at the last position, and that take most away; tables/prompt_parts.csv has the groups of each layer."  # fmt: skip
    return [
        Table(
            ("prompt", "next", "layer.neuron", "adds"), tuple(body), caption, frozenset({3}), "tab-neurons", folded=True
        )
    ]


def _patterns(tables: Tables, shown: pd.DataFrame) -> list[Item]:
    """Attention of the heads that add most, token by token."""
    path = tables.dir.tables / "prompt_patterns.npz"
    if not path.is_file():
        return []
    arrays, entries = read_arrays(path), json.loads(path.with_suffix(".json").read_text())
    names = shown.drop_duplicates(["run", "prompt"]).set_index(["run", "prompt"]).shown
    rows, options = [], dict[str, None]()
    for entry in entries:
        if (entry["run"], entry["prompt"]) not in names.index:
            continue
        name = f"{names[entry['run'], entry['prompt']]}, head {entry['layer']}.{entry['head']}"
        options[name] = None
        at = [_place(p, text) for p, text in enumerate(entry["tokens"])]
        pattern = arrays[entry["key"]]
        for q, k in zip(*np.nonzero(pattern >= FAINT), strict=True):
            rows.append((name, at[q], at[k], float(pattern[q, k]), int(k), int(q)))
    if not rows:
        return []
    data = pd.DataFrame(rows, columns=["shown", "query", "key", "value", "x_order", "y_order"])
    tip = [alt.Tooltip("query:N"), alt.Tooltip("key:N"), alt.Tooltip("value:Q", title="attention", format=".3f")]
    chart = cells.cells(data, ("key", "key"), ("query", "query"), cells.share_scale(), tip, WHERE, from_top=True)
    finding = f"Attention of the heads that add most to the logits: {next(iter(options))}."
    encoding = f"A row is a query token, a column a key token; attention below {FAINT} is left blank. Whole patterns: tables/prompt_patterns.npz."
    choice = Choice("shown", "Prompt and head", tuple((o, o) for o in options))
    return [Figure("fig-prompt-patterns", finding, encoding, data[["shown", "query", "key", "value"]], (Chart(chart, "Attention by token"),), choices=(choice,), columns=1, swatches=False)]  # fmt: skip
