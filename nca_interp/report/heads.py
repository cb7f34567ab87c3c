"""What happens inside: probe scores over training, layer-by-head maps, attention patterns."""

from __future__ import annotations

import pandas as pd

from nca_interp.report import charts
from nca_interp.report.numbers import fixed, listing, plain
from nca_interp.report.outcome import mean_over_seeds, missing
from nca_interp.report.page import Chart, Choice, Figure, Item, Widget
from nca_interp.report.raster import attention_png
from nca_interp.report.tables import SCRATCH, Tables

HIGHEST, AVERAGE = "highest head", "mean of heads"
SHOWN_SEEDS = 3
AXIS = "tokens since the embedding swap"


def _since_swap(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """`tokens` counted from the swap: pre-pre-training is negative."""
    length = tables.runs[tables.runs.stage == "ppt"].set_index("run").tokens
    offset = rows.run.map(length).where(rows.stage == "ppt", 0.0).fillna(0.0)
    return rows.assign(tokens=rows.tokens - offset)


def _timeline(tables: Tables) -> pd.DataFrame:
    """Probe rows of the main regimes, heads reduced to their maximum and mean: one row a run, step, probe and `line`."""
    rows = tables.probes[
        tables.probes.regime.isin(tables.main) & tables.probes.run.isin(tables.finished) & tables.probes.value.notna()
    ]
    rows = _since_swap(tables, rows[rows.stage.isin(["ppt", "pt"])])
    keys = ["run", "regime", "domain", "seed", "stage", "step", "tokens", "probe", "unit"]
    whole = rows[rows["head"].isna()]
    grouped = rows[rows["head"].notna()].groupby(keys, as_index=False, sort=False)
    chance = {"chance": ("chance", "mean")}
    return pd.concat(
        [
            grouped.agg(value=("value", "max"), **chance).assign(line=HIGHEST),
            grouped.agg(value=("value", "mean"), **chance).assign(line=AVERAGE),
            whole.groupby(keys, as_index=False, sort=False).agg(value=("value", "mean"), **chance).assign(line="model"),
        ],
        ignore_index=True,
    )


def _in_domain(rows: pd.DataFrame, domain: str) -> pd.DataFrame:
    """Rows of one domain with the pre-pre-training that preceded them (which belongs to no domain)."""
    return rows[(rows.domain == domain) | ((rows.domain == "") & (rows.stage == "ppt"))]


def _mean(rows: pd.DataFrame) -> pd.DataFrame:
    return mean_over_seeds(rows, ["regime", "stage", "probe", "line", "tokens"]).sort_values(["regime", "tokens"])


def _references(rows: pd.DataFrame, line: str) -> list[tuple[float, str]]:
    chance = rows.chance.dropna()
    found = [(float(chance.mean()), f"chance {fixed(chance.mean())}")] if len(chance) else []
    random = rows[(rows.regime == SCRATCH) & (rows.step == 0) & (rows.stage == "pt")].value
    if line == HIGHEST and len(random):
        # two labels of one height would cover each other
        value, span = float(random.mean()), rows.value.max() - rows.value.min()
        near = bool(found) and abs(value - found[0][0]) < 0.07 * span
        found = (
            [(found[0][0], f"chance {fixed(found[0][0])}; random weights {fixed(value)}")]
            if near
            else [*found, (value, f"random weights {fixed(value)}")]
        )
    return found


def induction(tables: Tables, probe: str = "induction") -> list[Item]:
    """Induction score in both stages: highest head and mean of heads of every regime."""
    rows = _timeline(tables) if tables.has("probes") else tables.probes
    rows = rows[rows.probe == probe]
    if rows.empty:
        return [missing(f"probe called {probe}", "probes.csv")]
    views, told = [], []
    for domain, title in tables.domains.items():
        for line in (HIGHEST, AVERAGE):
            part = _in_domain(rows[rows.line == line], domain)
            if not (part.stage == "pt").any():
                continue
            chart = charts.curves(
                part,
                _mean(part),
                tables.main,
                "attention mass",
                x_title=AXIS,
                references=_references(part, line),
                swap=True,
                dots=True,
            )
            views.append(Chart(chart, f"Induction score, {line}, {title}", f"{title}: {line}"))
        told.append(_ending(tables, rows[(rows.line == HIGHEST) & (rows.domain == domain)], title))
    encoding = (
        "Attention from the second occurrence of a random token to the token after its first. Left of the swap: pre-pre-training (the same "
        "runs in every panel); right: pre-training. Thick: mean over seeds; thin: single seeds; dashed: chance and, for the highest head, weights at random."
    )
    return [
        Figure("fig-induction", " ".join(t for t in told if t), encoding, rows.drop(columns=["unit"]), tuple(views))
    ]


def _ending(tables: Tables, rows: pd.DataFrame, title: str) -> str:
    last = rows[rows.stage == "pt"].sort_values("step").groupby("run", sort=False).tail(1)
    means = last.groupby("regime").value.mean()
    parts = [f"{r} {fixed(means[r])}" for r in tables.main if r in means]
    return f"{title}, highest head at the end (mean over seeds): {listing(parts)}." if parts else ""


def explorer(tables: Tables, skip: tuple[str, ...] = ("induction",)) -> list[Item]:
    """Every other probe over training, one at a time."""
    if not tables.has("probes"):
        return [missing("probe measurement", "probes.csv")]
    rows = _timeline(tables)
    rows = rows[~rows.probe.isin(skip)].copy()
    if rows.empty:
        return []
    rows["key"] = rows.probe.where(rows.line == "model", rows.probe + ", " + rows.line)
    model = list(rows[rows.line == "model"].key.unique())
    keys = [*model, *(k for k in rows.key.unique() if k not in model)]
    taught = set(rows[rows.stage == "pt"].key)
    keys.sort(key=lambda k: k not in taught)  # probes of synthetic tokens end at the swap
    units = rows.groupby("key").unit.first()
    views = []
    for domain, title in tables.domains.items():
        part = _in_domain(rows, domain).assign(run=lambda f: f.run + f.key)
        mean = mean_over_seeds(part, ["regime", "stage", "key", "tokens"]).sort_values(["regime", "tokens"])
        chart = charts.curves(
            part[["regime", "run", "tokens", "value", "key"]], mean, tables.main, "score", x_title=AXIS, swap=True, where="datum.key == key", labels=False, dots=True
        )  # fmt: skip
        views.append(Chart(chart, f"Selected probe over training, {title}", title))
    choice = Choice("key", "Probe", tuple((k, f"{k} ({units[k]})" if units[k] else k) for k in keys))
    ends = (
        rows[(rows.key == keys[0]) & (rows.stage == "pt")]
        .sort_values("step")
        .groupby("run", sort=False)
        .tail(1)
        .groupby("regime")
        .value.mean()
    )
    finding = f"{keys[0]} at the end, mean over domains and seeds: {listing(f'{r} {fixed(ends[r])}' for r in tables.main if r in ends)}. Choose another probe below."
    encoding = "Thick: mean over seeds; thin: single seeds; marks: checkpoints. Definitions and chance levels stand under Method."
    return [
        Figure(
            "fig-probes",
            finding,
            encoding,
            rows[["key", "regime", "domain", "seed", "stage", "step", "tokens", "value", "chance", "unit"]],
            tuple(views),
            choices=(choice,),
        )
    ]


def head_map(tables: Tables) -> list[Item]:
    """Scores of every head at the final checkpoint, probe by probe."""
    rows = tables.probes[
        tables.probes["head"].notna() & (tables.probes.stage == "pt") & tables.probes.regime.isin(tables.main)
    ]
    rows = rows[rows.run.isin(tables.finished)]
    if rows.empty:
        return [missing("score of single heads", "probes.csv")]
    last = rows.groupby("run").step.transform("max")
    columns = ["run", "regime", "domain", "seed", "step", "probe", "layer", "head", "value", "chance", "sd", "unit"]
    rows = rows[rows.step == last][columns]
    spans = {str(p): (float(g.value.min()), float(g.value.max()) + 1e-9) for p, g in rows.groupby("probe")}
    where = "datum.probe == probe && datum.domain == domain"
    seeds = sorted(rows.seed.unique())[:SHOWN_SEEDS]
    views = []
    for regime in tables.main:
        for seed in seeds:
            part = rows[(rows.regime == regime) & (rows.seed == seed)]
            if len(part):
                name = f"{regime}, seed {int(seed)}"
                views.append(
                    Chart(charts.heat(part, spans, where, rows["head"].nunique() <= 6), f"Heads of {name}", name)
                )
    probes = list(rows.probe.unique())
    probes.sort(key=lambda p: p != "induction")
    chance = rows.groupby("probe").chance.mean()
    options = tuple((p, f"{p} (chance {fixed(chance[p])})" if pd.notna(chance[p]) else p) for p in probes)
    choices = (
        Choice("probe", "Probe", options),
        Choice("domain", "Domain", tuple((d, t) for d, t in tables.domains.items() if d in set(rows.domain))),
    )
    top = rows[rows.probe == probes[0]].sort_values("value").iloc[-1]
    finding = (
        f"Highest {probes[0]} score of any head: {fixed(top.value)}, layer {plain(top.layer)} head {plain(top['head'])} of {top.regime} "
        f"on {tables.domain_label(top.domain)}, seed {plain(top.seed)} (chance {fixed(top.chance)})."
    )
    hidden = (
        f" The first {SHOWN_SEEDS} seeds are drawn; the table has all." if rows.seed.nunique() > SHOWN_SEEDS else ""
    )
    encoding = f"Final pre-training checkpoint; a row is a layer, a column a head, darker (in dark mode: lighter) is higher. One colour scale for all maps of a probe. Heads of different seeds do not correspond.{hidden}"
    return [
        Figure(
            "fig-heads",
            finding,
            encoding,
            rows,
            tuple(views),
            choices=choices,
            columns=max(2, len(seeds)),
            swatches=False,
        )
    ]


def patterns(tables: Tables) -> list[Item]:
    """Attention of chosen heads on a real sequence, cell by cell."""
    if not tables.patterns:
        return [missing("attention pattern", "patterns.npz")]
    entries, rows = [], []
    ordered = sorted(tables.patterns, key=lambda p: p[0]["regime"] != tables.reference)
    for entry, pattern in ordered:
        name = f"{entry['regime']}, {tables.domain_label(entry.get('domain') or '')}, seed {entry['seed']}: layer {entry['layer']} head {entry['head']} ({entry['name']})"
        entries.append(
            {
                "name": name,
                "size": int(pattern.shape[0]),
                "tokens": [str(t) for t in entry["tokens"]],
                "png": attention_png(pattern),
            }
        )
        rows.append(
            {k: entry.get(k) for k in ("regime", "domain", "seed", "stage", "step", "layer", "head", "name", "score")}
        )
    best, first = ordered[0][0], entries[0]["name"]
    finding = f"{first}, score {fixed(best['score'])}." if best.get("score") is not None else f"{first}."
    encoding = (
        "A row is a query token, a column a key token it may look back at; darker (in dark mode: lighter) is more attention, on a square-root "
        "scale so that small weights show. Point at a cell, or focus the map and use the arrow keys, to read both tokens and the probability."
    )
    return [
        Figure(
            "fig-pattern",
            finding,
            encoding,
            pd.DataFrame(rows),
            widget=Widget("attention", {"entries": entries}),
            swatches=False,
        )
    ]
