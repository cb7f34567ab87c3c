"""What a recommendation rests on: the matching hypothesis, as far as a finished study supports it.

The hypothesis (arXiv 2603.10055): transfer is best where the complexity of the automata matches that of the domain.
A study tests it with its arms of role "complexity": within a seed, the rank correlation between an arm's distance from
the domain and its final loss minus scratch is positive if the hypothesis holds.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from scipy import stats

from nca_interp.analysis.verdicts.statistics import t_interval
from nca_interp.base import UserError
from nca_interp.data.complexity.gzip_score import gzip_ratio
from nca_interp.discover import builtin_folder
from nca_interp.store import StudyDir, read_json

HYPOTHESIS = (
    "The matching hypothesis of arXiv 2603.10055: transfer is best where the complexity of the automata matches the "
    "domain's (there: web text and mathematics with gzip ratios of 50 % and more, code with 30-40 %)"
)
MEASURE = "gzip_ratio_normalised"
"""Of a study's `complexity` table: distance of an arm from a domain."""
MIN_ARMS, MIN_SEEDS = 4, 2
"""Fewest arms and seeds for a rank correlation with an interval."""
VERDICTS = ("better", "worse", "equivalent", "inconclusive", "no verdict (one seed)")


PAPER_BANDS = ((0.2, 0.3), (0.3, 0.4), (0.4, 0.5), (0.5, 1.0))
PIECE = 1440
"""Bytes that the published code compresses of a trajectory: 360 tokens as int32."""


class PaperRule(NamedTuple):
    """The paper's own comparison: gzip of the text's bytes, in per cent, against the band in per cent."""

    pieces: float
    """Mean gzip ratio of pieces of `PIECE` bytes."""
    whole: float
    """Of all bytes of the sample together."""
    sentence: str


def paper_rule(text: bytes) -> PaperRule | None:
    """What the paper's rule would say of a text; None for less than one piece."""
    pieces = [text[i : i + PIECE] for i in range(0, len(text) - PIECE + 1, PIECE)]
    if not pieces:
        return None
    mean, whole = sum(map(gzip_ratio, pieces)) / len(pieces), gzip_ratio(text)
    return PaperRule(
        mean,
        whole,
        f"The paper's rule would say {_band(mean)}: gzip leaves {100 * mean:.0f} % of the text in pieces of {PIECE:,} bytes. Of "
        f"the whole sample it leaves {100 * whole:.0f} %, which would mean {_band(whole)}; the paper does not say which.",
    )


def _band(ratio: float) -> str:
    found = next((b for b in PAPER_BANDS if b[0] <= ratio < b[1]), None)
    if found is None:
        return "no band, it lies below 0.2" if ratio < PAPER_BANDS[0][0] else "no band, it lies above 1"
    return f"the band {found[0]:g}-{found[1]:g}"


class Evidence(NamedTuple):
    """What a study says of the hypothesis."""

    study: str
    supports: str
    """yes, no, or inconclusive"""
    sentence: str
    comparisons: list[dict[str, Any]]
    """The study's contrasts of arms with scratch, as they stand in its table."""


def own_evidence() -> Evidence | None:
    """Evidence of the demonstration whose record comes with the package; None without it."""
    path = builtin_folder("reports") / "demo.json"
    if not path.is_file():
        return None
    record = read_json(path)
    return judge(str(record["study"]), pd.DataFrame(record["verdicts"]), None, None)


def study_evidence(folder: Path) -> Evidence:
    """Evidence of an analysed study. UserError without its tables or without arms of different complexity."""
    study = StudyDir.open(folder)
    tables = {name: _table(study, name) for name in ("contrasts", "pairs", "complexity")}
    return judge(study.path.resolve().name, **tables)


def _table(study: StudyDir, name: str) -> pd.DataFrame:
    path = study.table(name)
    study.check_tables()
    if not path.is_file():
        raise UserError(f"{path}: no such table; run: nca-interp analyze {study.path}")
    try:
        return pd.read_csv(path, keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as a table ({error})") from None


def judge(study: str, contrasts: pd.DataFrame, pairs: pd.DataFrame | None, complexity: pd.DataFrame | None) -> Evidence:
    """Evidence in a study's tables (docs/tables.md); without `pairs` and `complexity`, of its verdicts alone."""
    rows = contrasts[(contrasts.family == "complexity") & (contrasts.control == "scratch")]
    rows = rows[rows.metric.astype(str).str.contains("loss")]
    if rows.empty:
        raise UserError(f"{study}: no arm of another complexity is compared with scratch in it; nothing to learn from")
    counts = rows.verdict.value_counts()
    told = ", ".join(f"{counts[v]} {v}" for v in VERDICTS if v in counts)
    domains = list(dict.fromkeys(rows.domain))
    n = int(rows.n.min())
    said = (
        f"Study {study!r}: of {len(rows)} comparisons of an NCA setting with scratch ({', '.join(domains)}; {n} or more "
        f"seeds) {told}"
    )
    tests = (
        [_correlation(d, pairs, complexity) for d in domains] if pairs is not None and complexity is not None else []
    )
    found = {t.supports for t in tests}
    supports = found.pop() if len(found) == 1 else "inconclusive"
    said += "".join(f"; {t.sentence}" for t in tests)
    verdict = {
        "yes": "its losses rise with the distance from the domain, as the hypothesis says",
        "no": "its losses fall with the distance from the domain, against the hypothesis",
        "inconclusive": "so it neither supports nor contradicts the hypothesis",
    }[supports]
    plain = rows.astype(object).where(rows.notna(), None).to_dict("records")
    return Evidence(study, supports, f"{said}; {verdict}.", [{str(k): v for k, v in row.items()} for row in plain])


class Correlation(NamedTuple):
    """Of one domain."""

    supports: str
    sentence: str


def _correlation(domain: str, pairs: pd.DataFrame, complexity: pd.DataFrame) -> Correlation:
    """Spearman's rho within each seed, its mean and 95 % t-interval over seeds."""
    values = complexity[complexity.measure == MEASURE]
    here = values[values.domain == domain].value
    arms = values[values.regime.notna()].groupby("regime").value.mean()
    rows = pairs[(pairs.family == "complexity") & (pairs.control == "scratch") & (pairs.domain == domain)]
    rows = rows[rows.treated.isin(arms.index)]
    if here.empty or rows.empty:
        return Correlation("inconclusive", f"{domain}: no measured complexity")
    rows = rows.assign(distance=(rows.treated.map(arms) - float(here.mean())).abs())
    seeds = [g for _, g in rows.groupby("seed") if g.treated.nunique() >= MIN_ARMS]
    if len(seeds) < MIN_SEEDS:
        return Correlation(
            "inconclusive",
            f"{domain}: {rows.treated.nunique()} arms and {rows.seed.nunique()} seeds, a rank correlation of distance and loss "
            f"needs {MIN_ARMS} and {MIN_SEEDS}",
        )
    rho = [float(stats.spearmanr(g.distance, g.difference).statistic) for g in seeds]
    rho = [r for r in rho if not math.isnan(r)]
    if len(rho) < MIN_SEEDS:
        return Correlation("inconclusive", f"{domain}: all arms are equally far from it")
    mean, low, high = t_interval(rho)
    supports = "yes" if low > 0 else "no" if high < 0 else "inconclusive"
    return Correlation(
        supports,
        f"{domain}: rank correlation of distance and loss {mean:+.2f}, 95 % interval {max(low, -1):+.2f} to {min(high, 1):+.2f}, {len(rho)} seeds",
    )
