"""How the embeddings of each arm were drawn at the swap, and what its network is like before the first step of language."""

from __future__ import annotations

import pandas as pd

from nca_interp.report.charts import layers
from nca_interp.report.charts.numbers import DASH, fixed, listing, significant, whole
from nca_interp.report.charts.theme import LIGHT
from nca_interp.report.page import Chart, Figure, Item, Table
from nca_interp.report.sections.outcome import NATS, mean_over_seeds, missing
from nca_interp.report.sections.transfer import contrast_table
from nca_interp.report.tables import Tables, each

PARTS = ("embed", "attn", "mlp", "norm", "unembed")
VIEWS = (
    ("before", "resid_rms", "root mean square", "Residual stream before the swap"),
    ("after", "resid_rms", "root mean square", "Residual stream at step 0"),
    ("before", "token_share", "share of variance", "The token's share before the swap"),
    ("after", "token_share", "share of variance", "The token's share at step 0"),
)


def start(tables: Tables) -> list[Item]:
    """Residual stream by layer before and after the swap, policy, loss and gradients at step 0, and the comparisons of policies."""
    shown = [n for n, info in tables.regimes.items() if info.role in ("regime", "control", "swap")]
    rows = tables.start[tables.start.regime.isin(shown)]
    if rows.empty:
        return [missing("measure of the network at step 0", "start.csv")]
    return [
        _figure(tables, rows, shown),
        _arms(tables, rows, shown),
        *_scratches(tables),
        *contrast_table(
            tables,
            "swap",
            "tab-swap",
            "Each arm of a swap policy against scratch with the same embeddings, and the best scratch.",
        ),
    ]


def _figure(tables: Tables, rows: pd.DataFrame, shown: list[str]) -> Figure:
    known = rows[rows.layer.notna() & rows.value.notna()]
    views = []
    for domain, label in tables.domains.items():
        for side, quantity, unit, title in VIEWS:
            part = known[(known.domain == domain) & (known.side == side) & (known.quantity == quantity)]
            if part.empty:
                continue
            mean = mean_over_seeds(part, ["regime", "layer"])
            raw = part[["regime", "run", "layer", "value"]]
            chart = layers.by_layer(raw, mean, shown, unit, where="true")
            views.append(Chart(chart, f"{title}, by layer, {label}", f"{title}, {label}"))
    encoding = (
        "Thick line: mean over seeds; thin lines: single runs. Layer 0 is the embedding, layer n the residual stream after block n, on the "
        f"first {whole(known.n.max())} positions of the validation rows: before the swap those of the synthetic source, at step 0 "
        "those of the domain. Share of variance: how much of the stream's variance over positions the token's own embedding "
        "accounts for. A regime from scratch has nothing before."
    )
    if len(shown) > len(LIGHT):
        dashed = listing(shown[len(LIGHT) :])
        encoding += f" There are more arms than colours; dashed: {dashed}."
    return Figure("fig-start", _finding(tables, known), encoding, rows.drop(columns="stage"), tuple(views))


def _finding(tables: Tables, known: pd.DataFrame) -> str:
    """The token's share in the last layer of the first domain, of each arm."""
    domain = next(d for d in tables.domains if d in set(known.domain))
    part = known[(known.domain == domain) & (known.side == "after") & (known.quantity == "token_share")]
    last = part[part.layer == part.layer.max()].groupby("regime", sort=False).value.mean()
    told = listing(f"{regime} {value:.2f}" for regime, value in last.items())
    return f"{tables.domain_label(domain)}: at step 0 the token's embedding accounts for this share of the last layer: {told}."


def _arms(tables: Tables, rows: pd.DataFrame, shown: list[str]) -> Table:
    """A line an arm and domain: policy, loss and gradient norms at step 0, means over seeds."""
    flat = rows[(rows.side == "after") & rows.layer.isna()]
    body = []
    for domain, label in tables.domains.items():
        for regime in shown:
            own = flat[(flat.domain == domain) & (flat.regime == regime)]
            if own.empty:
                continue
            mean = own.groupby("quantity").value.mean()
            norms = (significant(mean[k]) if (k := f"grad_norm_{part}") in mean else DASH for part in PARTS)
            policy = own.policy.iloc[0]
            body.append(
                (label, tables.label(regime), policy, whole(own.run.nunique()), fixed(mean.get("loss")), *norms)
            )
    head = ("domain", "arm", "policy", "seeds", f"loss, {NATS}", *PARTS)
    caption = (
        "Before the first step: loss on the measured validation rows, and the Euclidean norm of its gradient over each module, means over "
        "seeds. A dash: a tied unembedding counts as the embedding."
    )
    return Table(head, tuple(body), caption, frozenset(range(3, len(head))), "tab-start", folded=True)


def _scratches(tables: Tables) -> list[Item]:
    rows = tables.scratches
    if rows.empty:
        return []
    body = tuple(
        (tables.domain_label(r.domain), tables.label(r.regime), whole(r.n), fixed(r.loss, 4), "best scratch" if r.chosen else "")
        for r in each(rows)
    )  # fmt: skip
    caption = (
        "“Best scratch” is the arm with the lowest mean final loss over the seeds that all scratch arms of the domain have; the first of the "
        "recipe where two are equal. The rule was fixed before the runs, the arm was not: the least of several means is low by chance "
        "too, so “better than the best scratch” is harder to reach than against an arm named beforehand, and “worse” easier."
    )
    return [
        Table(
            ("domain", "arm", "seeds", f"final loss, {NATS}", "is"),
            body,
            caption,
            frozenset({2, 3}),
            "tab-scratches",
            folded=True,
        )
    ]
