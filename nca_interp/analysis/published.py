"""Published numbers (arXiv 2603.10055 and its authors' page) beside ours, with why the settings differ."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nca_interp.analysis.statistics import t_interval

COLUMNS = "domain metric regime published ours ours_low ours_high same_setting why source".split()
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


def _ours(entry: dict[str, Any], tables: dict[str, pd.DataFrame]) -> tuple[float, float, float]:
    domain, regime, kind = entry["domain"], entry["regime"], entry["kind"]
    none = (math.nan, math.nan, math.nan)
    if kind == "perplexity":
        final = tables["final"]
        losses = final[(final.domain == domain) & (final.regime == regime)].value
        return none if losses.empty else tuple(np.exp(t_interval(losses.to_numpy())).tolist())
    if kind == "change":
        c = tables["contrasts"]
        c = c[(c.family == "regime") & (c.domain == domain) & (c.treated == regime) & (c.control == "scratch") & (c.metric == "val_loss")]
        return none if c.empty else tuple((100 * np.expm1(c.iloc[0][["effect", "low", "high"]].astype(float))).tolist())
    if kind == "speedup":
        s = tables["speedup"]
        s = s[(s.domain == domain) & (s.regime == regime) & (s.budget == "pt")]
        # a bound in a mean would be a number that nobody measured
        return none if s.empty or s.censored.any() else tuple(t_interval(s.speedup.to_numpy()))
    assert kind == "accuracy", kind
    r = tables["reasoning"]
    shares = r[(r.domain == domain) & (r.regime == regime)].accuracy
    return none if shares.empty else tuple(100 * v for v in t_interval(shares.to_numpy()))
