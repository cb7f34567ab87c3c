"""The circuit at work, and over training: the figure of the player, or a sentence that says why there is none."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd

from nca_interp.codes import LEVEL_ERROR
from nca_interp.report.charts.numbers import listing, plural
from nca_interp.report.page import Figure, Item, Note, Section, Widget
from nca_interp.report.player_data import Model, Shown, Stage, focus, targets
from nca_interp.report.player_widget import BUDGET, widget
from nca_interp.report.tables import Tables

TITLE = "The circuit at work"
NAMED = 6
"""Regimes that are named among those left out."""


def sections(tables: Tables) -> tuple[Section, ...]:
    """Of checkpoints from elsewhere, the player as a section."""
    return (Section("player", TITLE, tuple(player(tables))),)


def player(tables: Tables) -> list[Item]:
    """The figure; a sentence where nothing was measured for it."""
    shown = Shown(tables)
    if not shown.there:
        return [
            Note(
                f"The circuit at work is not shown: its data were not measured. Run: {tables.dir.analyze()} --only player",
                quiet=True,
                absent=True,
            )
        ]
    if not shown.stages:
        why = "; ".join(dict.fromkeys(note for m in shown.models for note in m.notes)) or "no checkpoint could be read"
        return [Note(f"The circuit at work is not shown: {why}.", quiet=True)]
    data = widget(shown)
    data["notes"] = [f"{KEYS} {_axis(shown)}", _effects_note(shown), _sources(shown), _thinned(shown, data)]
    return [
        Figure(
            "fig-player",
            _finding(shown),
            _encoding(shown),
            _rows(shown),
            widget=Widget("circuit", data),
            swatches=False,
        )
    ]


def _finding(shown: Shown) -> str:
    """What the head that looks most where it is meant to does at the end of the first stage that has a grid, else of the first."""
    stages = [(m, s) for m in shown.models for s in m.stages]
    model, stage = next(((m, s) for m, s in stages if s.entry["sequence"]["kind"] == "grid"), stages[0])
    over = " Move the upper slider to see it form." if any(s.n > 1 for _, s in stages) else ""
    return f"{_looks(model, stage)}{over}"


def _looks(model: Model, stage: Stage) -> str:
    """Of the last checkpoint, mean over the queries that write the last frame, or over those whose token stood there before."""
    s = stage.entry["sequence"]
    aims = targets(s)
    asked = np.asarray(aims.any(1))
    asked[-1] = False
    if s["kind"] == "grid":
        asked[: s["start"] + (s["frames"] - 1) * (s["rows"] * s["columns"] + 2)] = False
    if not asked.any():
        return f"No token of this text stood there before: an induction head of {model.name} has nothing to find."
    shares = focus(stage.arrays["attention"][-1], s)[:, asked].mean(1)
    layer, head = stage.entry["heads"][int(shares.argmax())]
    alike = (aims.sum(1) / np.arange(1, len(aims) + 1))[asked].mean()
    grid = s["kind"] == "grid"
    when = f"About to write frame {s['frames'] - 1}" if grid else "Where a token stood before"
    what = "what the rule reads" if grid else "what followed it"
    return (
        f"{when}, layer {layer} head {head} of {model.name} puts {100 * shares.max():.0f} % of its attention on {what} (looking everywhere "
        f"alike: {100 * alike:.0f} %)."
    )


KEYS = (
    "In the picture the left and right arrows choose a token, up and down a frame (in a text the next token that stood there before), page up "
    "and page down a checkpoint, home and end the ends, space plays. The sliders take the arrow keys, home, end and space."
)


def _encoding(shown: Shown) -> str:
    """How the figure is read."""
    kinds = {s.entry["sequence"]["kind"] for m in shown.models for s in m.stages}
    words = []
    if "grid" in kinds:
        words.append(
            "Frames of a rule: grey cells, on a torus (the edges meet); bars above and below a frame are its delimiters. In the predicted frame each patch is "
            "predicted after the true ones before it, and a cell is as near to the grey between the states as the model is unsure of it."
        )
    if "text" in kinds:
        words.append("Text: an induction head looks at what followed earlier occurrences of the current token.")
    if any(s.n > 1 for m in shown.models for s in m.stages):
        words.append("The small charts move with the checkpoint; a dot marks it.")
    return " ".join(words)


def _axis(shown: Shown) -> str:
    """What the charts run over."""
    if shown.tables.collection is None:
        return f"The charts of loss and of the loss without a head run over {shown.clock} since the swap, which is the dotted line."
    return f"The charts run over training {shown.clock}{'' if shown.clock == 'tokens' else 's'}."


def _effects_note(shown: Shown) -> str:
    """What the loss without a head is."""
    told = {str(m) for m in shown.tables.step_effects[shown.tables.step_effects.run.isin(shown.stages)].metric}
    if not told:
        return "Loss without it: where the causes were measured (--causes), at the end of a run."
    rows = int(shown.tables.step_effects.n.max())
    return f"Loss without it: loss on {rows} rows of the model's own data with the output of the chosen head replaced by its mean, less that without; band: 95 % interval over the rows. Nothing is corrected for looking at many heads."


def _sources(shown: Shown) -> str:
    told: dict[str, list[str]] = {}
    for model in shown.models:
        for s in model.stages:
            q = s.entry["sequence"]
            told.setdefault(f"{q['name']}, {plural(len(q['tokens']), 'token')} ({q['why']})", []).append(s.entry["run"])
    return "Shown: " + "; ".join(f"{listing(runs)}: {what}" for what, runs in told.items()) + "."


def _thinned(shown: Shown, data: dict[str, Any]) -> str:
    size = len(json.dumps(data, separators=(",", ":")))
    stages = [
        (s, d)
        for m, dm in zip(shown.models, data["models"], strict=True)
        for s, d in zip(m.stages, dm["stages"], strict=True)
    ]
    heads = max(s.entry["shape"][0] * s.entry["shape"][1] for s, _ in stages)
    kept = {
        run: sum(len(p["at"]) == s.n for p in d["patterns"].values()) for s, d in stages for run in (s.entry["run"],)
    }
    ends = {s.entry["run"]: len(d["patterns"]) for s, d in stages}
    whole = [run for run, n in kept.items() if n == heads]
    part = [f"{run} {n} of {heads} (the last checkpoint of {ends[run]})" for run, n in kept.items() if n < heads]
    words = [
        f"Data: {size / 1000:.0f} kB of at most {BUDGET / 1000:.0f}; weights in 33 levels of their square root (at most {LEVEL_ERROR} off); "
        "shares of attention are summed before that, from weights in 256 levels; probabilities in 256, scores in 255 of their range."
    ]
    if whole:
        words.append(f"All {heads} heads at every shown checkpoint: {listing(whole)}.")
    if part:
        words.append(
            f"Heads whose pattern is here at every checkpoint, highest of each probe first: {'; '.join(part)}."
        )
    thin = [
        s for s, d in stages if len(d["map_at"]) < s.n or any(1 < len(p["at"]) < s.n for p in d["patterns"].values())
    ]
    if thin:
        words.append("Between the checkpoints that were kept, a map or a pattern is that of the nearest earlier one.")
    left = list(shown.said["left_out"])
    if left:
        more = f" and {len(left) - NAMED} more" if len(left) > NAMED else ""
        words.append(f"Not shown: {', '.join(left[:NAMED])}{more}.")
    notes = [note for m in shown.models for note in m.notes]
    return " ".join([*words, *(f"{note}." for note in notes)])


def _rows(shown: Shown) -> pd.DataFrame:
    """What stands behind the small charts: effects of the heads, where they were measured, else the shown checkpoints."""
    effects = shown.tables.step_effects
    effects = effects[effects.run.isin(shown.stages)]
    if len(effects):
        return effects[
            ["run", "regime", "stage", "step", "tokens", "layer", "head", "metric", "value", "low", "high", "n"]
        ]
    return pd.DataFrame(
        [
            {"run": run, "regime": s.entry["regime"], "stage": s.entry["stage"], "step": step, "tokens": tokens}
            for run, s in shown.stages.items()
            for step, tokens in zip(s.entry["steps"], s.entry["tokens"], strict=True)
        ]
    )
