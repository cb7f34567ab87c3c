"""Sets of heads: the highest of each probe against random ones, and whether the same heads carry two tasks."""

from __future__ import annotations

import numpy as np
import pandas as pd

from nca_interp.analysis.sharing import associate
from nca_interp.analysis.statistics import ALPHA, holm, t_interval
from nca_interp.report import cause_charts as charts
from nca_interp.report.cause_rows import BEFORE, INCONCLUSIVE, LOSSES, Causes, benjamini_hochberg, choice
from nca_interp.report.numbers import absent, fixed, interval, listing, p_value, plural, signed, whole
from nca_interp.report.page import Chart, Figure, Item, Table
from nca_interp.report.tables import Tables, each

JUDGED = ("induction", "previous_token")
"""Probes whose top heads are judged in the table; the figure's data hold all."""
SHARE_MARGIN = 0.01
"""Smallest change of an accuracy that matters; of losses it is the study's margin."""


def top_heads(tables: Tables, found: Causes) -> list[Item]:
    """The best heads of each probe, lost together, beside random sets with as many heads in every layer."""
    rows = found.of("top_heads")
    if rows.empty:
        return []
    told = _verdicts(tables, found, rows)
    views = []
    for place in found.places:
        part = told[told.place == place]
        if len(part):
            order = part.groupby("probe").effect.max().sort_values(ascending=False)
            part = part.sort_values(
                "probe", key=lambda s: s.map({p: (p not in JUDGED, i) for i, p in enumerate(order.index)})
            )
            views.append(
                Chart(
                    charts.against_random(part.drop(columns="place"), tables.main),
                    f"Top heads against random sets, {place}",
                    place,
                )
            )
    margin = float(tables.study.get("margin") or 0.01)
    encoding = (
        "Mark: harm of losing the highest heads of a probe together (2 % of all heads, at least one); bar and tick: mean and two standard deviations of random "
        "sets with as many heads in each layer. Load-bearing: more harm than random sets, p below 0.05 after Benjamini and Hochberg over the probes and metrics of a "
        f"regime and place (p of seeds combined by Fisher’s method). Not load-bearing: with two seeds or more, the 95 % t-interval of the excess stays below {fixed(margin)} "
        f"nats ({fixed(SHARE_MARGIN)} of a share). Else inconclusive: with few heads a layer, or one seed, there are few different random sets and p stays high."
    )
    key = _judged(told)
    counts = listing(f"{n} {v}" for v, n in told.verdict.value_counts().items())
    finding = f"{_top_finding(key)} Of all {len(told)} verdicts (probe, metric, model): {counts}.".strip()
    figure = Figure(
        "fig-top-heads", finding, encoding, told.drop(columns=["low", "high"]), tuple(views), choices=(choice(found),)
    )
    return [figure, *_top_table(key)]


def _verdicts(tables: Tables, found: Causes, rows: pd.DataFrame) -> pd.DataFrame:
    from scipy.stats import combine_pvalues

    margin, told = float(tables.study.get("margin") or 0.01), []
    for (place, regime, probe, metric), part in rows.groupby(["place", "regime", "by", "metric"], sort=False):
        random = part.chance * found.signs[str(metric)]
        excess = t_interval((part.harm - random).to_numpy(float))
        p = part.p.dropna()
        told.append({
            "place": place, "regime": regime, "probe": probe, "metric": metric, "effect": part.harm.mean(), "random": random.mean(),
            "low": (random - 2 * part.sd).mean(), "high": (random + 2 * part.sd).mean(), "excess": excess.value, "excess_low": excess.low,
            "excess_high": excess.high, "p": float(combine_pvalues(p)[1]) if len(p) else np.nan, "seeds": len(part), "sets": part.n.min(),
            "heads": "; ".join(part["at"]), "margin": SHARE_MARGIN if part.unit.iloc[0].startswith("share") else margin,
        })  # fmt: skip
    frame = pd.DataFrame(told).sort_values(
        ["place", "regime"], key=lambda s: s.map([*found.places, *tables.main].index), kind="stable"
    )
    frame["p_bh"] = np.nan
    for _, part in frame.groupby(["place", "regime"]):
        frame.loc[part.index, "p_bh"] = benjamini_hochberg(part.p)
    bearing = (frame.p_bh < ALPHA) & (frame.excess > 0)
    frame["verdict"] = np.select(
        [bearing, frame.excess_high < frame.margin], ["load-bearing", "not load-bearing"], INCONCLUSIVE
    )
    return frame


def _judged(told: pd.DataFrame) -> pd.DataFrame:
    return told[told.probe.isin(JUDGED) & told.metric.isin(LOSSES)]


def _top_finding(key: pd.DataFrame) -> str:
    first = (
        key[(key.probe == JUDGED[0]) & (key.metric == LOSSES[0]) & (key.place == key.place.iloc[0])]
        if len(key)
        else key
    )
    parts = [
        f"{r.regime} {signed(r.effect)} against random {signed(r.random)}, p {p_value(r.p)}, {plural(int(r.seeds), 'seed')}: {r.verdict}"
        for r in each(first)
    ]
    return (
        f"Losing the {JUDGED[0]} heads, harm to {LOSSES[0]}, {first.place.iloc[0]}: {'; '.join(parts)}."
        if parts
        else ""
    )


def _top_table(key: pd.DataFrame) -> list[Item]:
    if key.empty:
        return []
    head = (
        "verdict",
        "model",
        "heads",
        "lost",
        "harm",
        "random sets",
        "excess",
        "95 % interval",
        "p",
        "adjusted",
        "seeds",
        "sets",
    )
    body = tuple(
        (
            r.verdict, f"{r.regime}, {r.place}", r.probe, r.metric, signed(r.effect), signed(r.random), signed(r.excess),
            interval(r.excess_low, r.excess_high), p_value(r.p), p_value(r.p_bh), whole(r.seeds), whole(r.sets),
        )
        for r in each(key)
    )  # fmt: skip
    caption = f"{plural(len(body), 'verdict')}: is the model worse without its {listing(w.replace('_', ' ') for w in JUDGED)} heads than without others?"
    return [Table(head, body, caption, frozenset(range(4, 12)), "tab-top-heads", folded=len(body) > 12)]


def shared(tables: Tables, found: Causes) -> list[Item]:
    """Do the same heads carry two tasks? And the synthetic task before the swap and language after it?"""
    rows = _pairs_of_tasks(tables, found)
    if rows.empty:
        return []
    body = tuple(
        (
            r.verdict,
            f"{r.regime}, {r.place}",
            r.one,
            r.other,
            signed(r.rho, 2),
            interval(r.low, r.high, 2),
            p_value(r.p),
            p_value(r.p_holm),
            whole(r.seeds),
            whole(r.heads),
        )
        for r in each(rows)
    )
    head = ("verdict", "model", "harm to", "and harm to", "Spearman", "95 % interval", "p", "Holm", "seeds", "heads")
    counts = listing(f"{n} {v}" for v, n in rows.verdict.value_counts().items())
    caption = f"Do the same heads carry both? {counts}. Rank correlation over heads of what losing each costs; p by permutation within models, Holm over this table."
    return [Table(head, body, caption, frozenset(range(4, 10)), "tab-shared", folded=len(body) > 12)]


def _pairs_of_tasks(tables: Tables, found: Causes) -> pd.DataFrame:
    keys = ["layer", "head"]
    wide = found.of("ablation").pivot_table(
        index=["place", "regime", "seed", *keys], columns="metric", values="harm", sort=True
    )
    losses = [m for m in LOSSES if m in wide]
    told = []
    for place in found.places:
        for regime in tables.main:
            pairs = [((place, a), (place, b)) for i, a in enumerate(losses) for b in losses[i + 1 :]]
            crossed = found.of("cross_stage")
            crossed = crossed[
                (crossed.place == place)
                & (crossed.regime == regime)
                & crossed.metric.isin(wide)
                & crossed.by.isin(wide)
            ]
            crossed = crossed.drop_duplicates(["metric", "by"])
            pairs = [*(((BEFORE, r.metric), (place, r.by)) for r in each(crossed)), *pairs]
            for one, other in pairs:
                told.append(_pair(wide, regime, place, one, other))
    rows = pd.DataFrame([t for t in told if t is not None])
    if rows.empty:
        return rows
    rows["p_holm"] = holm(list(rows.p))
    rows["verdict"] = np.select(
        [(rows.p_holm < ALPHA) & (rows.rho > 0), (rows.p_holm < ALPHA) & (rows.rho < 0)],
        ["the same heads", "opposite heads"],
        INCONCLUSIVE,
    )
    return rows


def _harms(wide: pd.DataFrame, regime: str, place: str, metric: str, name: str) -> pd.DataFrame:
    """Harm of losing each head of a regime as column `name`: index seed, layer, head."""
    rows = wide[(wide.index.get_level_values("place") == place) & (wide.index.get_level_values("regime") == regime)]
    return rows[[metric]].rename(columns={metric: name}).droplevel(["place", "regime"])


def _pair(
    wide: pd.DataFrame, regime: str, place: str, one: tuple[str, str], other: tuple[str, str]
) -> dict[str, object] | None:
    models = []
    both = _harms(wide, regime, *one, "one").join(_harms(wide, regime, *other, "other"), how="inner")
    for _, heads in both.groupby("seed"):
        values = heads.to_numpy(float)
        if len(values) >= 3 and np.isfinite(values).all():
            models.append((values[:, :1], values[:, 1:]))
    if not models:
        return None
    a = associate(models)
    if absent(float(a.rho[0, 0])):
        return None
    before = one[0] != other[0]
    return {
        "regime": regime, "place": place, "one": f"{one[1]}, {BEFORE}" if before else one[1], "other": f"{other[1]}, after the swap" if before else other[1],
        "rho": float(a.rho[0, 0]), "low": float(a.low[0, 0]), "high": float(a.high[0, 0]), "p": float(a.p[0, 0]), "seeds": len(models), "heads": len(models[0][0]),
    }  # fmt: skip
