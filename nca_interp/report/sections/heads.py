"""What happens inside: probe scores over training and layer-by-head maps. Pages of single heads: head_page.py."""

from __future__ import annotations

import pandas as pd

from nca_interp.report.charts.curves import curves
from nca_interp.report.charts.heatmaps import heat
from nca_interp.report.charts.numbers import fixed, listing, plain, plural
from nca_interp.report.charts.timelines import SINCE_SWAP
from nca_interp.report.page import Chart, Choice, Figure, Item, Section
from nca_interp.report.sections import head_page
from nca_interp.report.sections.outcome import mean_over_seeds, missing
from nca_interp.report.tables import SCRATCH, Tables

HIGHEST, AVERAGE = "highest head", "mean of heads"
NO_SEED = -1
"""Stands for the seed of a run that has none: pandas drops rows whose index is not known."""
SHOWN_SEEDS, SHOWN_SCORES = 3, 250_000
"""Whose head maps are drawn: seeds, and scores (8 bytes each in the page)."""


def _timeline(tables: Tables) -> pd.DataFrame:
    """Probe rows of the main regimes, heads reduced to their maximum and mean: one row a run, step, probe and `line`."""
    rows = tables.probes[
        tables.probes.regime.isin(tables.main) & tables.probes.run.isin(tables.finished) & tables.probes.value.notna()
    ]
    rows = tables.since_swap(rows[rows.stage.isin(["ppt", "pt"])])
    keys = ["run", "regime", "domain", "seed", "stage", "step", "tokens", "probe", "unit"]
    whole = rows[rows["head"].isna()]
    grouped = rows[rows["head"].notna()].groupby(keys, as_index=False, sort=False)
    chance = {"chance": ("chance", "mean"), "null_95": ("null_95", "mean")}
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
    """Chance and, for the highest head, what random models reach: the 95th percentile of their heads where it was measured,
    else the highest head of scratch before its first step."""
    chance, null = rows.chance.dropna(), rows.null_95.dropna()
    found = [(float(chance.mean()), f"chance {fixed(chance.mean())}")] if len(chance) else []
    random = rows[(rows.regime == SCRATCH) & (rows.step == 0) & (rows.stage == "pt")].value
    if line != HIGHEST or not (len(null) or len(random)):
        return found
    value, name = (null.mean(), "random models, 95th percentile") if len(null) else (random.mean(), "random weights")
    # two labels of one height would cover each other
    if found and abs(value - found[0][0]) < 0.07 * (rows.value.max() - rows.value.min()):
        return [(found[0][0], f"{found[0][1]}; {name} {fixed(value)}")]
    return [*found, (float(value), f"{name} {fixed(value)}")]


def sections(tables: Tables) -> tuple[Section, ...]:
    """Scores over training, then head by head."""
    from nca_interp.report.sections import head_page, stimuli

    if tables.collection is not None:
        from nca_interp.report.sections import model_heads

        return model_heads.sections(tables)
    return (
        Section(
            "probes", "Attention heads over training", (*induction(tables), *explorer(tables), *stimuli.text(tables))
        ),
        Section(
            "heads", "Head by head", (*head_map(tables), *head_page.thumbnails(tables), *head_page.patterns(tables))
        ),
    )


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
            chart = curves(
                part,
                _mean(part),
                tables.main,
                "attention mass",
                x_title=SINCE_SWAP,
                references=_references(part, line),
                swap=True,
                dots=True,
            )
            views.append(Chart(chart, f"Induction score, {line}, {title}", f"{title}: {line}"))
        told.append(_ending(tables, rows[(rows.line == HIGHEST) & (rows.domain == domain)], title))
    encoding = (
        "Attention from the second occurrence of a random token to the token after its first. Left of the swap: pre-pre-training (the same "
        "runs in every panel); right: pre-training. Thick: mean over seeds; thin: single seeds; dashed: chance and, for the highest head, what random weights reach."
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
        chart = curves(
            part[["regime", "run", "tokens", "value", "key"]], mean, tables.main, "score", x_title=SINCE_SWAP, swap=True, where="datum.key == key", labels=False, dots=True
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
    """Scores of every head at the final checkpoint, probe by probe; each head has a page of its own."""
    rows = tables.final_scores
    rows = rows[rows.value.notna()]
    if rows.empty:
        return [missing("score of single heads", "probes.csv")]
    spans = {str(p): (float(g.value.min()), float(g.value.max()) + 1e-9) for p, g in rows.groupby("probe", sort=False)}
    seeds = _drawn_seeds(rows)
    table = wide(rows[rows.seed.isin(seeds)])
    views = []
    for regime in tables.main:
        for seed in seeds:
            part = table[(table.regime == regime) & (table.seed == seed)]
            if len(part):
                name = f"{regime}, seed {int(seed)}"
                chart = heat(part.drop(columns=["regime", "seed"]), spans, rows["head"].nunique() <= 6)
                views.append(Chart(chart, f"Heads of {name}", name))
    probes = sorted(spans, key=lambda p: p != "induction")
    choices = (
        Choice("probe", "Probe", tuple((p, option(rows[rows.probe == p])) for p in probes)),
        Choice("domain", "Domain", tuple((d, t) for d, t in tables.domains.items() if d in set(rows.domain))),
    )
    hidden = f" Drawn are the first {plural(len(seeds), 'seed')} of {rows.seed.nunique()}." if rows.seed.nunique() > len(seeds) else ""  # fmt: skip
    outlined = (
        " Outlined: hits, above the probe's threshold, twice chance and the 95th percentile of the heads of randomly initialised models."
        if rows.hit.notna().any()
        else ""
    )
    encoding = (
        "Click a head, or choose it with the arrow keys and press Enter, for its page. Final pre-training checkpoint; a row is a layer, a column a head, "
        f"darker (in dark mode: lighter) is higher. One colour scale for all maps of a probe.{outlined} Heads of different seeds do not correspond.{hidden} "
        "The data name the highest head of each model; tables/probes.csv holds every head."
    )
    first = rows[rows.probe == probes[0]]
    return [
        Figure(
            "fig-heads",
            f"{_highest(tables, first)} {_hits(tables, first)}".strip(),
            encoding,
            summary(rows),
            tuple(views),
            widget=head_page.pages(tables, rows[rows.seed.isin(seeds)]),
            choices=choices,
            columns=max(2, len(seeds)),
            swatches=False,
        )
    ]


def _drawn_seeds(rows: pd.DataFrame) -> list[int]:
    """The first seeds, as many as fit: three, fewer where models are large, at least one."""
    sizes = rows.groupby(rows.seed.astype(int)).size().sort_index().cumsum()
    fitting = sum(int(n) <= SHOWN_SCORES for n in sizes[:SHOWN_SEEDS])
    return [int(s) for s in sizes.index[: max(1, fitting)]]


def wide(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a head, a column a probe."""
    keys = ["run", "regime", "domain", "seed", "layer", "head"]
    rows = rows.assign(seed=rows.seed.fillna(NO_SEED))
    table = rows.pivot_table(index=keys, columns="probe", values="value", sort=False)
    hits = rows[rows.hit == 1].groupby(keys, sort=False).probe.agg(lambda names: f" {'  '.join(names)} ")
    return table.assign(hits=hits.reindex(table.index).fillna("")).reset_index()


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """The highest head of each run and probe, the mean over heads, reference levels and hits."""
    keys = ["run", "probe"]
    best = rows.loc[rows.groupby(keys, sort=False).value.idxmax()].set_index(keys)
    grouped = rows.groupby(keys, sort=False)
    best = best.assign(mean=grouped.value.mean(), hits=grouped.hit.sum(min_count=1), heads=grouped.size())
    columns = ["run", "regime", "domain", "seed", "step", "probe", "layer", "head", "value", "mean", "chance", "null_95", "hits", "heads", "unit"]  # fmt: skip
    return best.reset_index()[columns]


def reference(rows: pd.DataFrame) -> pd.DataFrame:
    """Chance and what random models reach, of each probe: probe, value, text."""
    means = rows.groupby("probe", sort=False)[["chance", "null_95"]].mean()
    words = {"chance": "chance", "null_95": "random models, 95 %"}
    found = [
        {"probe": str(p), "value": float(v), "text": words[str(c)]}
        for p, row in means.iterrows()
        for c, v in row.items()
        if pd.notna(v)
    ]
    return pd.DataFrame(found, columns=["probe", "value", "text"])


def option(rows: pd.DataFrame) -> str:
    """A probe with its reference levels, as the selector shows it."""
    known = [
        f"{name} {fixed(rows[column].mean())}"
        for column, name in (("chance", "chance"), ("null_95", "random models’ 95th percentile"))
        if rows[column].notna().any()
    ]
    if rows.hit.notna().any():
        known.append(f"hits {int(rows.hit.sum())} of {int(rows.hit.notna().sum())}")
    return f"{rows.probe.iloc[0]} ({'; '.join(known)})" if known else str(rows.probe.iloc[0])


def _highest(tables: Tables, rows: pd.DataFrame) -> str:
    top = rows.sort_values("value").iloc[-1]
    return (
        f"Highest {top.probe} score of any head: {fixed(top.value)}, layer {plain(top.layer)} head {plain(top['head'])} of {top.regime} "
        f"on {tables.domain_label(top.domain)}, seed {plain(top.seed)} (chance {fixed(top.chance)})."
    )


def _hits(tables: Tables, rows: pd.DataFrame) -> str:
    """How many heads of each regime are hits of one probe; nothing where no random models were measured."""
    rows = rows[rows.hit.notna()]
    if rows.empty:
        return ""
    corrected = tables.hits.merge(rows[["run", "step", "probe"]].drop_duplicates(), on=["run", "step", "probe"])
    told = []
    for regime in tables.main:
        part, sure = rows[rows.regime == regime], corrected[corrected.regime == regime].hits_fdr.dropna()
        if len(part):
            fdr = f" ({int(sure.sum())} at a false discovery rate of 5 %)" if len(sure) else ""
            told.append(f"{regime} {int(part.hit.sum())} of {plural(len(part), 'head')}{fdr}")
    random = f"; random models’ 95th percentile {fixed(rows.null_95.mean())}" if rows.null_95.notna().any() else ""
    return f"Hits, all domains and seeds: {listing(told)}{random}."
