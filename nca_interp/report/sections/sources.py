"""The synthetic data itself: a moving trajectory with its tokens, and whether its complexity explains the effect."""

from __future__ import annotations

import numpy as np
import pandas as pd

from nca_interp.report.charts import effects
from nca_interp.report.charts.numbers import DASH, fixed, plain, plural, signed
from nca_interp.report.charts.raster import SPRITE_COLUMNS, sprite_png, state_colors
from nca_interp.report.page import Chart, Figure, Item, Table, Widget
from nca_interp.report.sections.outcome import NATS, missing
from nca_interp.report.sections.transfer import contrast_table
from nca_interp.report.tables import Tables, each

MEASURES = ("gzip_ratio_normalised", "gzip_normalised", "gzip_ratio_normalized", "gzip_norm")


def trajectory(tables: Tables) -> list[Item]:
    """An NCA rule at work, frame by frame, with the tokens a model reads."""
    stored = tables.trajectory
    if stored is None:
        return [missing("NCA trajectory", "trajectory.json")]
    frames = np.asarray(stored["frames"], dtype=np.uint8)
    moved = (frames[1:] != frames[:-1]).mean(axis=(1, 2)) if len(frames) > 1 else np.zeros(1)
    ratio = f", gzip ratio {fixed(stored.get('gzip_ratio'), 2)}" if stored.get("gzip_ratio") is not None else ""
    finding = (
        f"{stored['label']}: in {plural(len(frames) - 1, 'step')} {100 * moved.min():.0f} to {100 * moved.max():.0f} % of the cells "
        f"change a step{ratio}."
    )
    rule = f" The rule: {stored['description']}." if stored.get("description") else ""
    encoding = (
        f"A {stored['grid']} × {stored['grid']} torus of cells with {stored['n_states']} states (colours), temperature {plain(stored.get('tau'))}. "
        f"Beside it the frame's tokens, each a patch of {stored['patch']} × {stored['patch']} cells, between its delimiters; point at a token "
        f"to see its patch.{rule}"
    )
    widget = player(frames, stored["tokens"], int(stored["n_states"]), int(stored["patch"]), str(stored["label"]))
    return [Figure("fig-trajectory", finding, encoding, frame_tokens(stored["tokens"]), widget=widget, swatches=False)]


def player(frames: np.ndarray, tokens: list[list[int]], n_states: int, patch: int, label: str) -> Widget:
    """Frames [frame, row, column] to be played, beside the tokens of each."""
    payload = {
        "png": sprite_png(frames, n_states),
        "count": len(frames),
        "size": frames.shape[1],
        "patch": patch,
        "columns": SPRITE_COLUMNS,
        "tokens": [_delimited(t) for t in tokens],
        "label": label,
        "states": [f"rgb({r},{g},{b})" for r, g, b in state_colors(n_states)],
    }
    return Widget("player", payload)


def frame_tokens(tokens: list[list[int]]) -> pd.DataFrame:
    """The tokens of each frame, for the table below a player."""
    return pd.DataFrame({"frame": range(len(tokens)), "tokens": [" ".join(map(str, t)) for t in tokens]})


def _delimited(tokens: list[int]) -> list[str]:
    """Token ids of a frame as text; the two largest ids, first and last of the frame, are its delimiters."""
    words = [str(t) for t in tokens]
    return ["<grid>", *words[1:-1], "</grid>"] if len(words) >= 2 else words


def _measure(tables: Tables) -> str | None:
    names = list(tables.complexity.measure.unique())
    near = (
        [m for m in MEASURES if m in names]
        or [m for m in names if "gzip" in m and "norm" in m]
        or [m for m in names if "gzip" in m]
    )
    return near[0] if near else None


def complexity(tables: Tables) -> list[Item]:
    """Effect of NCA data of different bands and alphabets, against their measured gzip ratio."""
    rows, measure = tables.contrast("complexity"), _measure(tables)
    if rows.empty or measure is None:
        return [missing("comparison of complexity bands", "contrasts.csv and complexity.csv"), *measure_table(tables)]
    ratios = tables.complexity[tables.complexity.measure == measure]
    by_regime = ratios[ratios.regime != ""].groupby("regime").value.mean()
    by_domain = ratios[ratios.domain != ""].groupby("domain").value.mean()
    rows = rows[rows.treated.isin(by_regime.index)]
    if rows.empty:
        return [missing("gzip ratio of the compared sources", "complexity.csv"), *measure_table(tables)]
    rows = rows.assign(x=rows.treated.map(by_regime), name=rows.treated, top=rows.high.fillna(rows.effect))
    pairs = tables.paired("complexity")
    pairs = pairs[pairs.treated.isin(by_regime.index)].assign(x=lambda f: f.treated.map(by_regime))
    name, told, views = measure.replace("_", " "), [], []
    for domain, title in tables.domains.items():
        part = rows[rows.domain == domain]
        if part.empty:
            continue
        target = (float(by_domain[domain]), "this corpus") if domain in by_domain else None
        chart = effects.scatter(
            part, pairs[pairs.domain == domain], f"{name} of the tokens", f"final loss minus scratch, {NATS}", target
        )
        views.append(Chart(chart, f"Effect against complexity on {title}", title))
        best = next(each(part.sort_values("effect")))
        corpus = f", the corpus itself {fixed(target[0], 2)}" if target else ""
        told.append(
            f"{title}: lowest with {best.treated} at {fixed(best.x, 2)} ({signed(best.effect)} nats, {best.verdict}){corpus}."
        )
    encoding = "Filled mark: mean difference to scratch with its 95 % interval; rings: single seeds; dashed: the ratio of the corpus that is learned afterwards. Below zero is better than scratch."
    data = rows[["domain", "treated", "x", "n", "effect", "low", "high", "verdict"]].rename(columns={"x": measure})
    figure = Figure("fig-complexity", " ".join(told), encoding, data, tuple(views), swatches=False)
    return [
        figure,
        *contrast_table(tables, "complexity", "tab-complexity", "Bands and alphabets against scratch."),
        *measure_table(tables),
    ]


def measure_table(tables: Tables) -> list[Item]:
    """Every source and corpus in a column, what was asked for and all its measures in rows."""
    rows = tables.complexity
    if rows.empty:
        return []
    facts = rows.drop_duplicates(["source", "label"])
    keys = list(zip(facts.source, facts.label, strict=True))
    bands = [DASH if pd.isna(f.band_low) else f"{plain(f.band_low)} to {plain(f.band_high)}" for f in each(facts)]
    body: list[tuple[str, ...]] = [
        ("kind", "", *facts.kind),
        ("states", "", *(plain(n) for n in facts.n_states)),
        ("gzip band asked for", "compressed / raw bytes", *bands),
    ]
    for (measure, unit), part in rows.groupby(["measure", "unit"], sort=False, dropna=False):
        values = part.groupby(["source", "label"]).value.mean()
        body.append((str(measure).replace("_", " "), plain(unit), *(fixed(values.get(key)) for key in keys)))
    head = ("measure", "unit", *(str(label) for _, label in keys))
    caption = "Complexity of every source and corpus; docs/measures.md defines each measure."
    return [Table(head, tuple(body), caption, frozenset(range(2, len(head))), "tab-measures")]
