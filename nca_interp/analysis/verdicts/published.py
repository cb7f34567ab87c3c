"""Published numbers (arXiv 2603.10055 and its authors' page) beside ours, with why the settings differ."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from nca_interp.analysis.verdicts.statistics import Interval, t_interval

COLUMNS = ["domain", "metric", "regime", "published", "ours", "ours_low", "ours_high", "same_setting", "why", "source"]
_NONE = Interval(math.nan, math.nan, math.nan)
FILE = Path(__file__).with_name("published.json")


def published_table(tables: dict[str, pd.DataFrame], domains: dict[str, str], setting: str) -> pd.DataFrame:
    """Every published number; ours beside it where the study has that domain and regime. `setting`: our model and budget
    in words. Intervals are 95 % t-intervals over seeds, empty with one seed."""
    known = json.loads(FILE.read_text(encoding="utf-8"))
    rows = []
    for entry in known["numbers"]:
        ours = _ours(entry, tables)
        corpus = domains.get(entry["domain"])
        here = f"{setting}, {corpus}" if corpus else f"{setting}; this study has no such domain"
        rows.append({
            **{k: entry[k] for k in ("domain", "metric", "regime", "published", "source")},
            "ours": ours[0], "ours_low": ours[1], "ours_high": ours[2], "same_setting": "no",
            "why": f"published: {known['setting'][entry['domain']]}; here: {here}",
        })  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def _ours(entry: dict[str, Any], tables: dict[str, pd.DataFrame]) -> Interval:
    domain, regime, kind = entry["domain"], entry["regime"], entry["kind"]
    if kind == "change":
        c = tables["contrasts"]
        named = (c.family == "regime") & (c.metric == "val_loss") & (c.treated == regime) & (c.control == "scratch")
        c = c[named & (c.domain == domain)]
        return (
            _NONE if c.empty else Interval(*(100 * math.expm1(float(c.iloc[0][k])) for k in ("effect", "low", "high")))
        )
    if kind == "speedup":
        s = tables["speedups"]
        s = s[(s.domain == domain) & (s.regime == regime) & (s.budget == "pt")]
        return _NONE if s.empty else Interval(*(float(s.iloc[0][k]) for k in ("speedup", "low", "high")))
    table, column = {"perplexity": ("final", "value"), "accuracy": ("reasoning", "accuracy")}[kind]
    rows = tables[table]
    values = rows[(rows.domain == domain) & (rows.regime == regime)][column]
    if values.empty:
        return _NONE
    interval = t_interval(values.to_numpy(dtype=float))
    return Interval(*(math.exp(v) if kind == "perplexity" else 100 * v for v in interval))
