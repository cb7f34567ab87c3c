"""Depth and distance of the brackets of a Dyck source, as its page shows them."""

from __future__ import annotations

from typing import Any

import pandas as pd

from nca_interp.report.charts import distributions as charts
from nca_interp.report.charts.numbers import absent, fixed, listing, plural
from nca_interp.report.page import Chart, Figure, Item
from nca_interp.report.pages.inspection import Inspection
from nca_interp.report.tables import each

FAR = 64
"""Tokens from which on an opener is called far from its closer."""


def brackets(source: Inspection) -> list[Item]:
    """Depth of the tokens, distance from opener to closer, and what is forced or cut off (Dyck)."""
    depth, distance = source.table("depth"), source.table("distance")
    if depth.empty:
        return []
    shares = source.record["brackets"]
    mean, common = (depth.depth * depth.share).sum(), next(each(distance.sort_values("share", ascending=False)))
    far = distance[distance.low >= FAR].share.sum()
    forced = [
        f"{_percent(shares[k])} by the {k.removeprefix('forced_by_')}" for k in ("forced_by_end", "forced_by_depth")
    ]
    finding = (
        f"On average {fixed(mean, 1)} of at most {source.spec['max_depth']} brackets are open; {100 * common.share:.0f} % of the closers are {_span(common)} "
        f"from their opener, {100 * far:.1f} % {FAR} or more. Of the closers {listing(forced)} are forced; {_percent(shares['unclosed'])} of the openers "
        "are cut off by the end of the row."
    )
    encoding = (
        f"Left: share of all tokens after which so many brackets are open. Right: share of the closers by tokens back to their opener, in bins that double. "
        f"Shares in the sentence: mean over rows with its 95 % interval by {source.unit}. Tables: depth.csv, distance.csv."
    )
    data = pd.concat([
        depth.assign(statistic="depth", low=depth.depth, high=depth.depth).drop(columns="depth"), distance.assign(statistic="distance"),
    ])[["statistic", "low", "high", "count", "share"]]  # fmt: skip
    bars = depth.assign(label=depth.depth.astype(str)), distance.assign(label=distance.low.astype(str))
    views = (
        Chart(charts.columns(bars[0], "brackets open"), "Histogram of depth", "depth"),
        Chart(
            charts.columns(bars[1], "tokens back to the opener, from"),
            "Histogram of the distance from opener to closer",
            "distance",
        ),
    )
    return [Figure("fig-brackets", finding, encoding, data, views)]


def _percent(share: dict[str, float]) -> str:
    low, high = share["low"], share["high"]
    sure = "" if absent(low) or absent(high) else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * share['value']:.1f} %{sure}"


def _span(part: Any) -> str:
    return plural(int(part.low), "token") if part.low == part.high else f"{part.low:g} to {part.high:g} tokens"
