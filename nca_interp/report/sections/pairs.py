"""A pair of prompts: what one patch from the clean to the corrupted one brings back."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from nca_interp.report.charts import cells
from nca_interp.report.charts.numbers import fixed, listing, signed, whole
from nca_interp.report.page import Chart, Choice, Figure, Item, Note, Section, Table
from nca_interp.report.tables import Tables, each

RUNS = 3
"""Models whose patches are shown; the tables hold all."""
SITES = {"resid": "residual stream before a layer", "attn": "attention output", "mlp": "MLP output"}
HEADS = {"head": "output of a head", "head -> logits": "direct path of a head to the logits"}
WHERE = "datum.run == run"


def section(tables: Tables) -> tuple[Section, ...]:
    """Activation and path patching, where a pair was given."""
    if not tables.has("prompt_pairs"):
        return ()
    items: list[Item] = [_pair(tables)]
    rows = tables.patches[tables.patches.recovery.notna()]
    rows = rows[rows.run.isin(list(dict.fromkeys(rows.run))[:RUNS])]
    if len(rows):
        items += [_positions(tables, rows), _heads(rows), *_edges(rows)]
    items += [Note(f"{r.run}: {r.note}.", quiet=True) for r in each(tables.prompt_pairs) if str(r.note)]
    return (Section("pairs", "A pair of prompts", (*items,)),)


def _pair(tables: Tables) -> Table:
    body = tuple(
        (r.run, r.clean, r.corrupt, r.quantity, signed(r.clean_value, 2), signed(r.corrupt_value, 2), fixed(r.clean_probability), fixed(r.corrupt_probability))
        for r in each(tables.prompt_pairs)
    )  # fmt: skip
    head = ("model", "clean", "corrupted", "measured", "clean", "corrupted", "p(answer), clean", "corrupted")
    caption = "The two prompts and what is measured at their last token. A patch puts one activation of the clean prompt into the pass on the corrupted one; recovery is the share of the difference that comes back (1: all, 0: nothing, not clipped)."  # fmt: skip
    return Table(head, body, caption, frozenset({4, 5, 6, 7}), "tab-pair")


def _choice(rows: pd.DataFrame) -> Choice:
    return Choice("run", "Model", tuple((r, r) for r in dict.fromkeys(rows.run)))


def _limit(rows: pd.DataFrame) -> float:
    return float(rows.recovery.abs().max()) or 1.0


def _positions(tables: Tables, rows: pd.DataFrame) -> Figure:
    tokens = tables.pair_tokens
    names = {
        (r.run, r.position): f"{int(r.position)} {r.clean}" + ("" if r.clean == r.corrupt else f" / {r.corrupt}")
        for r in each(tokens)
    }
    found = rows[rows.site.isin(SITES)].astype({"layer": int})
    found = found.assign(
        at=[names[r.run, r.position].replace(" ", "·").replace("·", " ", 1) for r in each(found)], value=found.recovery,
        x_order=found.position, y_order=found.layer,
    )  # fmt: skip
    tip = [alt.Tooltip("at:N"), alt.Tooltip("layer:O"), alt.Tooltip("value:Q", title="recovery", format="+.3f")]
    views = []
    for site, word in SITES.items():
        part = found[found.site == site][["run", "at", "layer", "value", "x_order", "y_order"]]
        chart = cells.cells(part, ("at", "token"), ("layer", "layer"), cells.signed_scale(_limit(found)), tip, WHERE)
        views.append(Chart(chart, f"Recovery by layer and token, {word}", word))
    best = [found[found.site == site].sort_values("value").iloc[-1] for site in ("attn", "mlp")]
    told = listing(f"{SITES[b.site]} of layer {b.layer} at {b['at']!r} {signed(b.value, 2)}" for b in best)
    finding = f"{best[0].run}: one patch brings back most by {told}."
    encoding = (
        "Colour: share of the difference that comes back when one activation of the clean prompt, in one layer at one token, replaces that of "
        "the corrupted one; blue towards the clean answer, red away from it. clean / corrupted where their tokens differ."
    )
    data = found[["run", "site", "layer", "position", "at", "recovery"]]
    return Figure("fig-patch-positions", finding, encoding, data, tuple(views), choices=(_choice(rows),), columns=1, swatches=False)  # fmt: skip


def _heads(rows: pd.DataFrame) -> Figure:
    found = rows[rows.site.isin(HEADS)].astype({"layer": int, "head": int})
    found = found.assign(value=found.recovery, x_order=found["head"], y_order=found.layer)
    tip = [alt.Tooltip("layer:O"), alt.Tooltip("head:O"), alt.Tooltip("value:Q", title="recovery", format="+.3f")]
    views = []
    for site, word in HEADS.items():
        part = found[found.site == site][["run", "layer", "head", "value", "x_order", "y_order"]]
        if len(part):
            chart = cells.cells(
                part, ("head", "head"), ("layer", "layer"), cells.signed_scale(_limit(found)), tip, WHERE
            )
            views.append(Chart(chart, f"Recovery by head, {word}", word))
    top = found[(found.site == "head") & (found.run == found.run.iloc[0])].sort_values("value")
    told = listing(f"{r.layer}.{r.head} {signed(r.value, 2)}" for r in each(top.iloc[::-1][:4]))
    finding = f"{found.run.iloc[0]}: the heads whose output brings back most are {told}; {_against(top)}."
    encoding = (
        "Left: a head's output at all tokens, everything after it computed anew. Right: only its direct path to the final norm and the logits; "
        "a head that is strong on the left and not on the right works through later parts."
    )
    data = found[["run", "site", "layer", "head", "recovery"]]
    return Figure("fig-patch-heads", finding, encoding, data, tuple(views), choices=(_choice(rows),), swatches=False)


def _against(top: pd.DataFrame) -> str:
    low: Any = top.iloc[0]
    if low.value >= 0:
        return "none works against the answer"
    return f"{whole(low.layer)}.{whole(low['head'])} works against it most, {signed(low.value, 2)}"


def _edges(rows: pd.DataFrame) -> list[Item]:
    found = rows[rows.site == "head -> head"].sort_values("recovery", key=lambda v: -v.abs(), kind="stable")
    if found.empty:
        return []
    body = tuple(
        (r.run, f"{int(r.from_layer)}.{int(r.from_head)} → {int(r.layer)}.{int(r.head)}", signed(r.recovery, 3)) for r in each(found)
    )  # fmt: skip
    caption = "Path patching between the heads whose patch changes most: the earlier head's clean output enters the later head alone (heads, MLPs and layers between keep theirs), and what the later one then puts out goes on."  # fmt: skip
    return [
        Table(("model", "path", "recovery"), body, caption, frozenset({2}), "tab-patch-edges", folded=len(body) > 12)
    ]
