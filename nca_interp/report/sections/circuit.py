"""What forms in the synthetic stage: scores of the best heads over its tokens, and a head at work on a trajectory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from nca_interp.report.charts.grids import attended
from nca_interp.report.charts.kinds import curves
from nca_interp.report.charts.numbers import fixed, listing, percent, short
from nca_interp.report.page import Chart, Choice, Figure, Item
from nca_interp.report.sections.head_page import title
from nca_interp.report.sections.outcome import missing
from nca_interp.report.tables import Exhibit, Tables, each

FORMING = ("induction", "previous_token", "nca_stencil", "nca_induction", "duplicate_token", "dyck_opener")
"""Probes whose highest head is drawn over the synthetic stage."""
STENCIL = "nca_stencil"
SHOWN = 3
"""Frames that are drawn: the one that is predicted last."""


def phases(tables: Tables) -> list[Item]:
    """The highest head of each probe at every checkpoint of pre-pre-training."""
    best = _best(tables)
    if best.empty:
        return [missing("checkpoint of pre-pre-training with probes", "probes.csv")]
    regimes, views = list(tables.regimes), []
    for probe in (name for name in FORMING if name in set(best.probe)):
        raw = best[best.probe == probe]
        mean = raw.groupby(["regime", "tokens"], sort=False).value.mean().reset_index()
        references = [(float(raw.chance.mean()), "chance")] if raw.chance.notna().any() else []
        chart = curves(
            raw, mean, regimes, "score of the highest head", x_title="tokens of pre-pre-training", height=210,
            references=references, zero=True,
        )  # fmt: skip
        words = probe.replace("_", " ")
        views.append(Chart(chart, f"Highest {words} score over pre-pre-training", words))
    encoding = (
        "Each checkpoint’s highest head; thin lines single seeds, thick line their mean. The highest of several heads lies above chance even "
        "where nothing was learned: the level of random weights stands in the tables of heads, and the section on emergence tests "
        "against it."
    )
    columns = ["run", "regime", "seed", "step", "tokens", "probe", "layer", "head", "value", "chance"]
    return [Figure("fig-phases", _rise(best), encoding, best[columns], tuple(views), columns=3)]


def _best(tables: Tables) -> pd.DataFrame:
    rows = tables.probes
    rows = rows[
        (rows.stage == "ppt") & rows["head"].notna() & rows.value.notna() & rows.probe.isin(FORMING) & rows.run.isin(tables.finished)
    ]  # fmt: skip
    kinds = {r["name"]: (r.get("source") or {}).get("kind") for r in tables.study["regimes"]}
    rows = rows[~rows.probe.str.startswith("nca_") | (rows.regime.map(kinds) == "nca")]  # elsewhere of other automata
    return rows.loc[rows.groupby(["run", "step", "probe"]).value.idxmax()] if len(rows) else rows


def _rise(best: pd.DataFrame) -> str:
    """By probe and regime the least and greatest of the seeds' highest heads at the last checkpoint."""
    last = best[best.step == best.groupby("run").step.transform("max")]
    told = []
    for probe in ("induction", STENCIL):
        rows = last[last.probe == probe]
        if len(rows):
            of = rows.groupby("regime", sort=False).value
            told.append(
                f"{probe.replace('_', ' ')} "
                + listing(
                    [f"{r} {fixed(of.get_group(r).min(), 2)} to {fixed(of.get_group(r).max(), 2)}" for r in of.groups]
                )
            )
    tokens = short(float(last.tokens.max())) if len(last) else "0"
    return f"Highest head after {tokens} synthetic tokens, least to greatest of the seeds: {'; '.join(told)}."


def at_work(tables: Tables) -> list[Item]:
    """The highest stencil head of the studied regime on frames of its own data."""
    for exhibit in tables.exhibits:
        spec = _spec(tables, exhibit)
        place = _head(tables, exhibit)
        if spec is not None and place is not None:
            figure = _figure(tables, exhibit, spec, place)
            return [figure] if figure is not None else []
    return []


def _spec(tables: Tables, exhibit: Exhibit) -> dict[str, Any] | None:
    """The NCA that a checkpoint of pre-pre-training was shown, or None."""
    if exhibit.entry["stage"] != "ppt":
        return None
    for regime in tables.study["regimes"]:
        source = regime.get("source") or {}
        if regime["name"] == exhibit.entry["regime"] and source.get("kind") == "nca":
            return dict(source)
    return None


def _head(tables: Tables, exhibit: Exhibit) -> tuple[int, int] | None:
    """Its highest stencil head, if its whole pattern is at hand."""
    e, rows = exhibit.entry, tables.probes
    rows = rows[(rows.run == e["run"]) & (rows.step == e["step"]) & (rows.probe == STENCIL) & rows["head"].notna()]
    ordered = each(rows.sort_values("value", ascending=False))
    return next((p for r in ordered if (p := (int(r.layer), int(r.head))) in exhibit.patterns), None)


def _figure(tables: Tables, exhibit: Exhibit, spec: dict[str, Any], place: tuple[int, int]) -> Figure | None:
    side, size, states = spec["grid"] // spec["patch"], spec["patch"], spec["n_states"]
    per_frame, ids = side * side + 2, _ids(exhibit, spec)
    frames = len(ids) // per_frame
    if frames < 2:
        return None
    grids = np.stack(
        [_cells(ids[f * per_frame + 1 : f * per_frame + 1 + side * side], side, size, states) for f in range(frames)]
    )
    shown = range(max(0, frames - SHOWN), frames)
    cells = pd.DataFrame(
        [
            {"frame": f, "row": r, "column": c, "state": grids[f, r, c] / max(1, states - 1)}
            for f in shown for r in range(spec["grid"]) for c in range(spec["grid"])
        ]
    )  # fmt: skip
    pattern, reach = exhibit.patterns[place], -(-spec["dt"] // size)
    rows = [
        row
        for patch in range(side * side)
        for row in _attention(pattern, patch, frames - 1, shown, side, size, per_frame, reach)
    ]
    patches = pd.DataFrame(rows)
    on_causes = patches[patches.part == "cause"].groupby("query").attention.sum().mean()
    middle = side * (side // 2) + side // 2
    order = [middle, *(p for p in range(side * side) if p != middle)]
    options = tuple((str(p), f"patch in row {p // side + 1}, column {p % side + 1}") for p in order)
    share = 100 * min(side, 2 * reach + 1) ** 2 / (side * side)
    finding = (
        f"Layer {place[0]} head {place[1]} of {title(tables, exhibit)}, about to write a patch of frame {frames - 1}: on the mean "
        f"over its patches {percent(100 * on_causes, 0).lstrip('+')} of the attention lies on the patches of the frame before that the rule reads "
        f"({share:.0f} % of that frame)."
    )
    encoding = (
        "Cells in grey by their state; orange: attention of the query from which the patch outlined in red is predicted, square-root scale; blue "
        "outlines: the patches of the frame before that hold the cells the rule reads (on a torus: the edges meet). Choose another patch above."
    )
    choice = Choice("patch", "predicted", options)
    charts = tuple(
        Chart(
            attended(cells, patches, f, "patch", spec["grid"]),
            f"Attention of layer {place[0]} head {place[1]} on frame {f}",
            f"frame {f}",
        )
        for f in shown
    )
    return Figure(
        "fig-at-work", finding, encoding, patches[["query", "frame", "top", "left", "attention", "part"]], charts, choices=(choice,),
        columns=len(charts), swatches=False,
    )  # fmt: skip


def _ids(exhibit: Exhibit, spec: dict[str, Any]) -> list[int]:
    vocab = spec["n_states"] ** (spec["patch"] ** 2) + 2
    names = {"<grid>": vocab - 2, "</grid>": vocab - 1}
    return [names[t] if t in names else int(t) for t in exhibit.entry["tokens"]]


def _cells(tokens: list[int], side: int, size: int, states: int) -> np.ndarray:
    """Cells [row, column] of a frame's patch tokens; the first cell of a patch is its lowest digit, as data.nca writes it."""
    grid = np.zeros((side * size, side * size), dtype=np.int64)
    for patch, token in enumerate(tokens):
        for cell in range(size * size):
            grid[(patch // side) * size + cell // size, (patch % side) * size + cell % size] = (
                token // states**cell % states
            )
    return grid


def _attention(
    pattern: np.ndarray, patch: int, frame: int, shown: range, side: int, size: int, per_frame: int, reach: int
) -> list[dict[str, Any]]:
    """Attention on every patch of the shown frames from the query that predicts `patch` of `frame`."""
    query, rows = frame * per_frame + patch, []
    row, column = divmod(patch, side)
    near = range(-reach, reach + 1)
    causes = {((row + dr) % side, (column + dc) % side) for dr in near for dc in near}
    for f in shown:
        for p in range(side * side):
            r, c = divmod(p, side)
            key = f * per_frame + 1 + p
            part = "cause" if f == frame - 1 and (r, c) in causes else "predicted" if f == frame and p == patch else ""
            mass = float(pattern[query, key]) if key <= query else 0.0
            if part or mass >= 0.002:
                rows.append({"frame": f, "query": patch, "top": r * size, "left": c * size, "bottom": (r + 1) * size, "right": (c + 1) * size, "attention": mass, "part": part})  # fmt: skip
    return rows
