"""What a recommendation rests on: the matching hypothesis, as far as a finished study supports it.

The hypothesis (arXiv 2603.10055): transfer is best where the complexity of the automata matches that of the domain.
A study tests it with its arms of role "complexity". The arm is the unit, for distances differ between arms, not between seeds: the
rank correlation over arms of the distance from the domain with the final loss minus scratch, mean over seeds, is compared
with that of distances dealt out anew to the arms.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nca_interp.analysis.verdicts.hypotheses import (
    CONTRADICTED,
    MIN_ARMS,
    MIN_SEEDS,
    PERMUTATIONS,
    SUPPORTED,
    all_orders,
    mean_ranks,
    permutation,
    ranks,
)
from nca_interp.analysis.verdicts.statistics import ALPHA
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
SWEEP_TESTS = "sweep_tests"
"""Table of the hypotheses of a sweep."""
MATCHING_ROWS = "matching"
"""How the names of its rows begin that are about matching."""
EXACT_ARMS = 8
"""Arms up to which every order is tried; random orders of more."""
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
    """The study's contrasts of arms with scratch, or the hypotheses of its sweep, as they stand in its table."""


def own_evidence() -> Evidence | None:
    """Evidence of the demonstration whose record comes with the package; None without it, and where none of its arms differ in
    complexity."""
    path = builtin_folder("reports") / "demo.json"
    if not path.is_file():
        return None
    record = read_json(path)
    verdicts = pd.DataFrame(record["verdicts"])
    if not (verdicts.family == "complexity").any():
        return None
    return judge(str(record["study"]), verdicts, None, None)


def study_evidence(folder: Path) -> Evidence:
    """Evidence of an analysed study: of its sweep (docs/sweep.md) where it has arms enough to hold one, else of its arms' distances alone.
    UserError without its tables or without arms of different complexity."""
    study = StudyDir.open(folder)
    name = study.path.resolve().name
    if study.table(SWEEP_TESTS).is_file() and (found := judge_sweep(name, _table(study, SWEEP_TESTS))) is not None:
        return found
    tables = {name: _table(study, name) for name in ("contrasts", "pairs", "complexity")}
    return judge(name, **tables)


def found_evidence(where: Path) -> Evidence | None:
    """Evidence of the sweep with the most arms in its verdict among the studies of a folder; None where none has any."""
    found: list[tuple[float, str, Path]] = []
    for path in sorted(where.glob(f"*/tables/{SWEEP_TESTS}.csv")):
        try:
            rows = _declared(_table(StudyDir.open(path.parent.parent), SWEEP_TESTS))
        except UserError:  # half written or damaged: not asked for, so left alone
            continue
        if len(rows) and rows.p.notna().any():
            found.append((-float(rows.arms.max()), path.parent.parent.name, path.parent.parent))
    return study_evidence(min(found)[2]) if found else None


def judge_sweep(study: str, tests: pd.DataFrame) -> Evidence | None:
    """Evidence in the table `sweep_tests`; None where it has no declared row. Matching is supported where gain falls with the distance beyond
    what its rivals explain, or where the best complexity moves with the domain, and neither is contradicted."""
    rows = _declared(tests)
    if rows.empty:
        return None
    matching = rows.hypothesis.str.startswith(MATCHING_ROWS)
    verdicts = set(rows[matching].verdict)
    supports = "no" if CONTRADICTED in verdicts else "yes" if SUPPORTED in verdicts else "inconclusive"
    rivals = "; ".join(f"{row.hypothesis}: {row.verdict}" for row in rows[~matching].itertuples())
    said = f"Sweep {study!r}: {' '.join(rows[matching].sentence)}"
    plain = rows.astype(object).where(rows.notna(), None).to_dict("records")
    return Evidence(
        study, supports, f"{said} Its rivals there: {rivals}.", [{str(k): v for k, v in row.items()} for row in plain]
    )


def _declared(tests: pd.DataFrame) -> pd.DataFrame:
    if lack := {"family", "hypothesis", "arms", "p", "verdict", "sentence"} - set(tests.columns):
        raise UserError(f"{SWEEP_TESTS}.csv: no column {min(lack)}; make the tables again with: nca-interp analyze")
    return tests[tests.family == "declared"]


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
    told = ", ".join(f"{n} {v}" for v, n in counts.items())
    domains = list(dict.fromkeys(rows.domain))
    n = int(rows.n.min())
    said = (
        f"Study {study!r}: of {len(rows)} comparisons of an NCA setting with scratch ({', '.join(domains)}; {n} or more "
        f"seeds) {told}"
    )
    tests = []
    if pairs is not None and complexity is not None:
        tests = [_arms(d, pairs, complexity) for d in domains]
    supports = _together(tests)
    said += "".join(f"; {t.sentence}" for t in tests)
    verdict = {
        "yes": "its losses rise with the distance from the domain, as the hypothesis says",
        "no": "its losses fall with the distance from the domain, against the hypothesis",
        "inconclusive": "so it neither supports nor contradicts the hypothesis",
    }[supports]
    plain = rows.astype(object).where(rows.notna(), None).to_dict("records")
    return Evidence(study, supports, f"{said}; {verdict}.", [{str(k): v for k, v in row.items()} for row in plain])


class Test(NamedTuple):
    """Of one domain; rho and p are NaN where it cannot be tested."""

    rho: float
    p: float
    sentence: str


def _arms(domain: str, pairs: pd.DataFrame, complexity: pd.DataFrame) -> Test:
    """Spearman's rho over arms of distance and loss, p by permutation of the distances over arms."""
    values = complexity[complexity.measure == MEASURE]
    here = values[values.domain == domain].value
    arms = values[values.regime.notna()].groupby("regime").value.mean()
    rows = pairs[(pairs.family == "complexity") & (pairs.control == "scratch") & (pairs.domain == domain)]
    rows = rows[rows.treated.isin(arms.index)]
    if here.empty or rows.empty:
        return Test(math.nan, math.nan, f"{domain}: no measured complexity")
    wide = rows.pivot_table(index="seed", columns="treated", values="difference").dropna(axis=0)
    if wide.shape[1] < MIN_ARMS or len(wide) < MIN_SEEDS:
        return Test(
            math.nan, math.nan,
            f"{domain}: {wide.shape[1]} arms and {len(wide)} seeds that have them all; to compare distance and loss over arms takes "
            f"{MIN_ARMS} arms and {MIN_SEEDS} seeds",
        )  # fmt: skip
    distance = np.abs(arms[wide.columns].to_numpy(float) - float(here.mean()))
    rho, p = permuted(distance, wide.to_numpy(float))
    if math.isnan(rho):
        return Test(rho, p, f"{domain}: all arms are equally far from it, or equally good")
    return Test(
        rho, p,
        f"{domain}: rank correlation of distance and loss over {len(distance)} arms {rho:+.2f}, mean of {len(wide)} seeds, p {p:.3f} (distances "
        "permuted over arms)",
    )  # fmt: skip


def permuted(distance: np.ndarray, losses: np.ndarray) -> tuple[float, float]:
    """Mean over seeds of Spearman's rho between distance [arm] and losses [seed, arm], and its two-sided p by permutation of
    the distances over arms: exact up to EXACT_ARMS arms. NaN where either does not vary."""
    losses = losses[np.ptp(losses, axis=1) > 0]
    near = np.round(distance, 9)  # distances that are equal but for rounding are ties
    if np.ptp(near) == 0 or not len(losses):
        return math.nan, math.nan
    n = len(near)
    orders = all_orders(n, math.factorial(n) if n <= EXACT_ARMS else PERMUTATIONS)
    return permutation([ranks(near)], [mean_ranks(losses)], orders)


def _together(tests: list[Test]) -> str:
    """yes or no where every domain could be tested and all say so, each at 5 % (a conjunction needs no correction)."""
    if not tests or not all(t.p < ALPHA for t in tests):
        return "inconclusive"
    signs = {t.rho > 0 for t in tests}
    return "inconclusive" if len(signs) > 1 else "yes" if signs == {True} else "no"
