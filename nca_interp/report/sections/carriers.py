"""What carries the transfer: necessity and sufficiency over parts and layers, controls, Shapley shares, and all comparisons at once."""

from __future__ import annotations

import pandas as pd

from nca_interp.report.charts import effects, families
from nca_interp.report.charts.numbers import DASH, absent, interval, listing, plural, signed, whole
from nca_interp.report.page import Chart, Figure, Item, Note, Table
from nca_interp.report.sections.outcome import NATS
from nca_interp.report.tables import Tables, each

QUESTIONS = {"necessity": "Necessity: what is lost without it", "sufficiency": "Sufficiency: what it alone brings"}
PARTS = {
    "embed": "embeddings", "attn": "attention", "mlp": "MLP", "norm": "norms", "qk": "Q and K", "vo": "V and O", "q": "Q", "k": "K",
    "v": "V", "o": "O",
}  # fmt: skip
WRITTEN = {"all": "all", "lower": "lower half", "upper": "upper half"}
PLAIN = ("initial", "fresh")
NO_TRANSFER = "no transfer to explain"


def carriers(tables: Tables) -> list[Item]:
    """Matrix of parts and layers, Shapley bars, every arm with its share of the gap, controls apart."""
    rows = tables.transfer
    if rows.empty:
        return []
    plain = rows[rows.instead.isin(PLAIN)]
    return [
        *_without_transfer(tables, rows),
        *_matrix(tables, plain),
        *_shapley(tables),
        *_arms(tables, plain, "tab-carriers", "Every arm: what re-initialising its parts costs, and what they alone bring."),
        *_arms(
            tables, rows[~rows.instead.isin(PLAIN)], "tab-controls",
            "Controls: something else in a part's place. Where it costs nothing, what was learned in that part is not what helps; where it still "
            "brings a gain over scratch, scale or spectrum alone do.",
        ),
    ]  # fmt: skip


def _without_transfer(tables: Tables, rows: pd.DataFrame) -> list[Item]:
    """A sentence for domains whose gap is not certainly other than zero."""
    told = []
    for domain, title in tables.domains.items():
        own = rows[(rows.domain == domain) & rows.gap.notna()]
        if len(own) and own.share.isna().all():
            first = own.iloc[0]
            told.append(f"{title}: {signed(first.gap)} nats {interval(first.gap_low, first.gap_high)}")
    if not told:
        return []
    return [
        Note(
            f"{NO_TRANSFER.capitalize()} where the interval of the gap to scratch holds zero, so only nats are shown, no shares. {'; '.join(told)}."
        )
    ]


def _matrix(tables: Tables, rows: pd.DataFrame) -> list[Item]:
    cells = rows[(rows.parts != "") & (rows.heads == "") & (rows.instead == "initial")].copy()
    if cells.empty:
        return []
    cells["part"] = [_parts(text) for text in cells.parts]
    cells["part_order"] = [(len(text.split()), list(PARTS).index(text.split()[0])) for text in cells.parts]
    cells["part_order"] = cells.part_order.rank(method="dense")
    cells["layers_order"] = [_place(text) for text in cells.layers]
    cells["layers"] = [WRITTEN.get(text, text) for text in cells.layers]
    cells["text"] = [
        signed(r.effect) if absent(r.share) else f"{signed(r.effect)} ({r.share:.0%})" for r in each(cells)
    ]
    largest = float(max(cells.effect.abs().max(), cells.gap.abs().max(skipna=True) or 0)) or 1.0
    views = []
    for (domain, full, question), own in cells.groupby(["domain", "full", "question"], sort=False):
        title = f"{QUESTIONS[str(question)]}, {tables.label(str(full))} on {tables.domain_label(str(domain))}"
        views.append(Chart(families.matrix(own.drop_duplicates(["part", "layers"]), largest), title, title))
    encoding = (
        f"A cell is one arm, mean over seeds in {NATS} (blue positive, red negative); in brackets the share of the gap between full transfer and scratch, where that gap is "
        "certainly other than zero. Necessity: final loss with the part re-initialised minus that of full transfer. Sufficiency: loss of scratch minus that "
        "with the part alone carried over. The final norm counts as of the last layer."
    )
    data = cells[
        [
            "domain",
            "regime",
            "question",
            "part",
            "layers",
            "n",
            "effect",
            "low",
            "high",
            "share",
            "share_low",
            "share_high",
            "verdict",
        ]
    ]
    return [Figure("fig-carriers", _finding(tables, cells), encoding, data, tuple(views), swatches=False)]


def _finding(tables: Tables, cells: pd.DataFrame) -> str:
    """Which parts the planned comparisons call needed, and which carry some of it, by domain."""
    told = []
    for domain, title in tables.domains.items():
        own = cells[cells.domain == domain]
        if own.empty:
            continue
        needed = [_named(r) for r in each(own[(own.question == "necessity") & own.verdict.str.startswith("needed")])]
        enough = [
            _named(r) for r in each(own[(own.question == "sufficiency") & own.verdict.str.startswith("carries some")])
        ]
        says = [f"needed: {listing(needed)}" if needed else "no part is shown to be needed"]
        says.append(f"alone carries some: {listing(enough)}" if enough else "none is shown to carry some alone")
        told.append(f"{title}, by the verdicts of the planned comparisons: {'; '.join(says)}.")
    return " ".join(told)


def _named(row: object) -> str:
    layers = str(row.layers)  # type: ignore[attr-defined]
    return str(row.part) + ("" if layers == "all" else f" ({layers})")  # type: ignore[attr-defined]


def _parts(text: str) -> str:
    return " + ".join(PARTS.get(part, part) for part in text.split())


def _place(layers: str) -> float:
    """Order of ranges of layers: all, halves, then by the first number."""
    named = ("all", "lower", "upper")
    return (
        float(named.index(layers)) if layers in named else 3.0 + float(layers.split()[0]) + 0.01 * len(layers.split())
    )


def _shapley(tables: Tables) -> list[Item]:
    rows = tables.shapley
    if rows.empty:
        return []
    shares, points = rows[rows.quantity == "share"], tables.shapley_seeds
    views, told = [], []
    for (domain, regime, instead), own in shares.groupby(["domain", "regime", "instead"], sort=False):
        bars = own.assign(
            name=[PARTS.get(t, t) for t in own.term],
            value=own.effect,
            group=(own.effect == own.effect.max()).astype(int),
        )
        mine = points[
            (points.domain == domain)
            & (points.regime == regime)
            & (points.instead == instead)
            & (points.quantity == "share")
        ]
        dots = mine.assign(name=[PARTS.get(t, t) for t in mine.term], value=mine.effect)
        title = f"{tables.label(str(regime))} on {tables.domain_label(str(domain))}" + (
            "" if instead == "initial" else f", {instead} draw"
        )
        chart = effects.bars(
            bars[["name", "value", "group"]], dots[["name", "value", "seed"]], f"Shapley share, {NATS}"
        )
        views.append(Chart(chart, f"Shapley shares of {title}", title))
        parts = (f"{PARTS.get(r.term, r.term)} {signed(r.effect)} {interval(r.low, r.high)}" for r in each(own))
        told.append(f"{title}: {listing(parts)} nats, of a gap of {signed(own.gap.iloc[0])}.")
    encoding = (
        "Bar: mean over seeds of a module's exact Shapley share, its gain over scratch averaged over all orders in which attention, MLP and "
        "norms can be carried over; the three sum to the gap between full transfer and scratch. Points: single seeds. Intervals: 95 %, each alone."
    )
    head = (
        "domain",
        "regime",
        "term",
        "seeds",
        f"value, {NATS}",
        "95 % interval, alone",
        "share of the gap",
        "95 % interval, alone",
    )
    body = tuple(
        (
            tables.domain_label(r.domain), tables.label(r.regime), f"{r.quantity}: {r.term}", whole(r.n), signed(r.effect), interval(r.low, r.high),
            DASH if absent(r.share) else f"{r.share:.0%}", _span(r),
        )
        for r in each(rows)
    )  # fmt: skip
    caption = (
        "Shapley shares and pairwise interactions. An interaction is the necessity of both minus that of each: positive where each can stand in for "
        "the other, negative where each needs the other."
    )
    return [
        Figure("fig-shapley", " ".join(told), encoding, points, tuple(views), swatches=False),
        Table(head, body, caption, frozenset({3, 4, 5, 6, 7}), "tab-shapley", folded=True),
    ]


def _arms(tables: Tables, rows: pd.DataFrame, ident: str, caption: str) -> list[Item]:
    if rows.empty:
        return []
    shares = bool(rows.share.notna().any())  # without any the two columns would only push the verdict out of sight
    head = (
        "domain", "arm", "question", "against", "seeds", f"effect, {NATS}", "95 % interval, alone",
        *(("share of the gap", "95 % interval, alone") if shares else ()), "verdict",
    )  # fmt: skip
    body = tuple(
        (
            tables.domain_label(r.domain), tables.label(r.regime), r.question, tables.label(r.against), whole(r.n), signed(r.effect),
            interval(r.low, r.high), *((DASH if absent(r.share) else f"{r.share:.0%}", _span(r)) if shares else ()), r.verdict or DASH,
        )
        for r in each(rows)
    )  # fmt: skip
    more = (
        " The verdict is that of the planned comparison, corrected over all of the study. Shares: ratio of means with Fieller's interval over seeds, "
        "only where the interval of the gap excludes zero."
    )
    return [Table(head, body, caption + more, frozenset(range(4, len(head) - 1)), ident, folded=len(body) > 12)]


def _span(row: object) -> str:
    low, high = row.share_low, row.share_high  # type: ignore[attr-defined]
    return DASH if absent(low) else f"{low:.0%} to {high:.0%}"


def all_contrasts(tables: Tables) -> list[Item]:
    """Every planned comparison of losses in one forest, the primary one first."""
    rows = tables.contrasts[tables.contrasts.metric == "val_loss"]
    if len(rows) < 2:
        return []
    rows = rows.assign(
        name=[f"{r.treated} against {r.control}" for r in each(rows)], kind=[_kind(r) for r in each(rows)]
    )
    pairs = tables.pairs[(tables.pairs.metric == "val_loss") & tables.pairs.counted]
    pairs = pairs.assign(name=pairs.treated + " against " + pairs.control)
    order = {"regime": 0, "swap": 1, "transfer": 2, "complexity": 3}
    rows = rows.sort_values(
        ["primary", "family"], key=lambda c: ~c if c.name == "primary" else c.map(order).fillna(9), kind="stable"
    )
    views: list[Chart] = []
    for domain in [d for d in [rows.domain.iloc[0], *tables.domains] if d in set(rows.domain)]:
        title = tables.domain_label(domain)
        if any(v.title == title for v in views):
            continue
        own, dots = rows[rows.domain == domain], pairs[pairs.domain == domain]
        columns = ["name", "effect", "low", "high", "kind", "verdict"]
        chart = families.forest(
            own[columns],
            dots[["name", "difference", "seed"]],
            f"treated minus control, {NATS}",
            float(rows.margin.max()),
        )
        views.append(Chart(chart, f"All planned comparisons on {title}", title))
    first = rows[rows.primary]
    lead = (
        f"The primary comparison: {first.sentence.iloc[0]} " if len(first) else "No comparison was declared primary. "
    )
    words = rows.verdict.str.split(",").str[0].value_counts()
    finding = (
        lead + f"Of {plural(len(rows), 'planned comparison')}: {listing(f'{n} {word}' for word, n in words.items())}."
    )
    encoding = (
        "Every planned comparison of final losses, the primary one first (diamond). Mark: mean over seeds; bar: 95 % interval of this comparison "
        "alone; rings: single seeds. Left of zero favours the regime named first. Triangles: better or worse after correction over all of them; "
        "circles: anything else. Grey band: the equivalence margin."
    )
    data = rows[
        [
            "domain",
            "family",
            "treated",
            "control",
            "primary",
            "n",
            "effect",
            "low",
            "high",
            "low_all",
            "high_all",
            "p_holm",
            "verdict",
        ]
    ]
    return [Figure("fig-contrasts", finding, encoding, data, tuple(views), swatches=False, columns=1)]


def _kind(row: object) -> str:
    word = str(row.verdict).split(",")[0]  # type: ignore[attr-defined]
    if row.primary:  # type: ignore[attr-defined]
        return "primary"
    return word if word in ("better", "worse") else "other"
