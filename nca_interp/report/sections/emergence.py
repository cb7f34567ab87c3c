"""What happens over training: when heads appear in each regime, whether they outlive the swap, how that lies to the loss."""

from __future__ import annotations

import math

import pandas as pd

from nca_interp.report.charts import timelines
from nca_interp.report.charts.numbers import DASH, fixed, listing, p_value, plural, short, signed, whole
from nca_interp.report.page import Chart, Choice, Figure, Item, Note, Section, Table
from nca_interp.report.sections import model_series
from nca_interp.report.sections.outcome import missing
from nca_interp.report.tables import SCRATCH, Tables, each

FIRST = ("induction", "repeated_token_gain", "in_context_learning", "previous_token")
"""Probes that are offered before the others."""
MOMENTS = {"best_ppt": "end of PPT", "best_swap": "after the swap", "best_end": "end of training"}
TOGETHER = 2.0
DECIDED = ("earlier", "later", "together")


def appearance(tables: Tables) -> list[Item]:
    """When each probe reached its level in every run, through both stages, and the comparison of the regimes."""
    rows = tables.emergence[tables.emergence.regime.isin(tables.main) & tables.emergence.run.isin(tables.finished)]
    if rows.empty:
        return [missing("emergence of a head", "emergence.csv")]
    by_chance = _by_chance(rows)
    shown = _placed(tables, rows[~rows.probe.isin(by_chance)])
    probes = _ordered(shown)
    left_out = (
        f"{listing(by_chance)}: not drawn, for random weights are at the level already; the table of the figure has them."
        if by_chance
        else ""
    )
    if not probes:
        return [Note(left_out, quiet=True)]
    never = [p for p in probes if not (shown[shown.probe == p].state != "never").any()]
    if flat := len(never) == len(probes):
        never = []
    every, probes = probes, [p for p in probes if p not in never]
    if never:
        left_out = f"{left_out} {listing(never)}: not drawn, for no run reached the level.".strip()
    views = []
    for domain, title in tables.domains.items():
        part = shown[((shown.domain == domain) | (shown.stage == "ppt")) & shown.probe.isin(probes)]
        if (part.stage == "pt").any():
            chart = timelines.appearances(part, tables.main, "datum.probe == emerging")
            views.append(Chart(chart, f"When the selected probe reached its level, {title}", title))
    encoding = (
        "A line is one run (regime, seed). Dot and bar: the first checkpoint whose score (median of three) is at the level and stays, and the "
        "checkpoint before, so the truth lies on the bar. Arrow to the right: not reached until there. Arrow to the left: at the level from the "
        "first checkpoint of the stage, as a circuit that was carried over would be. Dotted: the embedding swap. The level is the probe's "
        "threshold, twice chance or, where that is higher, a bound that the highest head of one more random model stays below with 95 % probability. How far "
        f"apart checkpoints are bounds what can be said: {_spacing(shown)}. {left_out}"
    )
    figure = Figure(
        "fig-emergence", _emergence_finding(tables, every), encoding, rows.drop(columns=["order"]), tuple(views),
        choices=(Choice("emerging", "Probe", tuple((p, p) for p in probes)),), columns=2, nothing=flat,
    )  # fmt: skip
    return [
        figure,
        *_timing(
            tables,
            "regime",
            "tab-emergence",
            f"Tokens until a probe reaches its level, {tables.reference} over the other.",
        ),
        *_alignment(tables),
    ]


def persistence(tables: Tables) -> list[Item]:
    """Do the heads of pre-pre-training outlive the swap and language?"""
    rows = tables.persistence[
        tables.persistence.regime.isin(tables.main) & tables.persistence.run.isin(tables.finished)
    ]
    if rows.empty:
        return [missing("head that could outlive the swap", "persistence.csv")]
    long = rows.melt(
        id_vars=["run", "regime", "domain", "seed", "probe", "chance"], value_vars=list(MOMENTS), var_name="moment", value_name="value",
    )  # fmt: skip
    long["moment"] = long.moment.map(MOMENTS)
    views = []
    for domain, title in tables.domains.items():
        part = long[long.domain == domain]
        if len(part):
            chart = timelines.moments(part, tables.main, list(MOMENTS.values()), "datum.probe == persisting")
            views.append(Chart(chart, f"The best heads of pre-pre-training across the swap, {title}", title))
    probes = _ordered(rows)
    encoding = (
        "Mean score of the heads that were at the level at the end of pre-pre-training (of the highest head where none was), followed by "
        "layer and head number, for weights are inherited. Thick: mean over seeds; thin: runs; dashed: chance in the vocabulary of "
        "language. A small synthetic vocabulary has shorter stimuli and a higher chance, so that its first point can lie above this line "
        "without any such head."
    )
    choices = (Choice("persisting", "Probe", tuple((p, p) for p in probes)),)
    figure = Figure(
        "fig-persistence", _persistence_finding(tables, probes), encoding, rows, tuple(views), choices=choices
    )
    return [figure, _persistence_table(tables, rows)]


def _spacing(rows: pd.DataFrame) -> str:
    known = rows.spacing.dropna()
    if known.empty:
        return "no probe was seen to emerge between two of them"
    low, high = known.min(), known.max()
    span = f"{low:.3g}" if math.isclose(low, high) else f"{low:.3g} to {high:.3g}"
    return f"those beside an emergence lie a factor of {span} apart in tokens"


def _by_chance(rows: pd.DataFrame) -> list[str]:
    """Probes whose level is reached by weights that were never trained."""
    random = rows[(rows.stage == "ppt") | (rows.regime == SCRATCH)]
    return sorted(set(random[random.state == "from start"].probe))


def _placed(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with their place on an axis that has the swap at 0."""
    length = tables.runs[tables.runs.stage == "ppt"].set_index("run").tokens
    offset = rows.run.map(length).where(rows.stage == "ppt", 0.0).fillna(0.0)
    low, high = rows.after_tokens.fillna(0.0) - offset, rows.by_tokens.fillna(rows.after_tokens) - offset
    order = rows.regime.map({name: i for i, name in enumerate(tables.main)})
    names = rows.regime + ", " + rows.seed.map(lambda seed: f"{int(seed)}")
    placed = rows.assign(low=low, high=high, x=high, name=names, place=order)
    columns = [
        "probe",
        "domain",
        "stage",
        "name",
        "regime",
        "state",
        "low",
        "high",
        "x",
        "after_tokens",
        "by_tokens",
        "level",
        "last",
        "spacing",
    ]
    return placed.sort_values(["place", "seed", "stage"])[columns]


def _ordered(rows: pd.DataFrame) -> list[str]:
    """The probes, those of interest first, then those that were reached anywhere."""
    found = sorted(set(rows.probe))
    reached = set(rows[rows.state == "reached"].probe) if "state" in rows else set()
    return sorted(found, key=lambda p: (FIRST.index(p) if p in FIRST else len(FIRST), p not in reached))


def _emergence_finding(tables: Tables, probes: list[str]) -> str:
    """The comparisons of the first probe that has any, by tokens of language alone."""
    rows = tables.timing[(tables.timing.family == "regime") & (tables.timing.budget == "pt")]
    for probe in probes:
        told = rows[rows.probe == probe].sentence
        if len(told):
            return " ".join(_upper(s) for s in told)
    return f"{plural(len(probes), 'probe')}, no comparison of regimes."


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _alignment(tables: Tables) -> list[Item]:
    """Does the loss bend where heads appear? Counts of verdicts, and every decided case."""
    rows = tables.timing[(tables.timing.family == "loss") & tables.timing.treated.isin(tables.main)]
    if rows.empty:
        return [
            Note(
                "Where the loss bends: no loss curve of this study has a change-point that can be told from a smooth learning curve.",
                quiet=True,
            )
        ]
    known = rows[rows.verdict.isin(DECIDED)]
    counts = [f"{n} {verdict}" for verdict, n in rows.verdict.value_counts().items()]
    text = (
        "Exploration. "
        "Emergence beside the bend of the training loss (the change-point of two segments in log tokens): of "
        f"{plural(len(rows), 'pair')} of regime and probe {listing(counts)}."
    )
    if known.empty:
        text += " Inconclusive: the checkpoints are too sparse, or the seeds too few, to say which came first."
    return [
        Note(text),
        *_timing(
            tables,
            "loss",
            "tab-alignment",
            "Tokens until a probe reaches its level over tokens at the bend of the loss.",
        ),
    ]


def _timing(tables: Tables, family: str, ident: str, caption: str) -> list[Item]:
    rows = tables.timing[(tables.timing.family == family) & tables.timing.treated.isin(tables.main)]
    if rows.empty:
        return []
    head = (
        "domain",
        "stage",
        "probe",
        "regime",
        "against",
        "tokens of",
        "verdict",
        "ratio of tokens",
        "95 % bounds (single)",
        "finest",
        "earlier",
        "later",
        "seeds",
        "p",
        "FDR",
    )
    body = tuple(
        (
            tables.domain_label(r.domain) if r.domain else DASH, r.stage, r.probe, r.treated, r.control, r.budget, r.verdict,
            _ratio(r.effect), f"[{_ratio(r.low)}, {_ratio(r.high)}]", _factor(r.finest), whole(r.earlier), whole(r.later), whole(r.n), p_value(r.p),
            p_value(r.p_bh),
        )
        for r in each(rows)
    )  # fmt: skip
    note = (
        f"{caption} A ratio below 1 is earlier; the bounds hold wherever between its checkpoints a probe was reached, a dash is unbounded. "
        f"{_offered(rows)} p: t-test of the nearer bound over seeds. Exploration: verdicts at a false discovery rate of 5 % over this table."
    )
    return [Table(head, body, note, frozenset(range(7, 14)), ident, folded=True)]


def _offered(rows: pd.DataFrame) -> str:
    """Whether checkpoints allow to say that two things come together."""
    if (rows.finest <= TOGETHER).any():
        return "together: within a factor of two; finest: the factor that these checkpoints and seeds can resolve."
    return "finest: the factor that these checkpoints and seeds can resolve; it is above two everywhere, so none can be said to come together."


def _factor(value: float) -> str:
    return DASH if not math.isfinite(value) else f"{value:.3g}"


def _ratio(doublings: float) -> str:
    return DASH if not math.isfinite(doublings) else f"{2**doublings:.3g}"


def _persistence_finding(tables: Tables, probes: list[str]) -> str:
    """The reference for the first probe that has a comparison with scratch; the table has every regime."""
    rows = tables.timing[(tables.timing.family == "persistence") & (tables.timing.treated == tables.reference)]
    for probe in probes:
        told = rows[rows.probe == probe].sentence
        if len(told):
            return " ".join(_upper(s) for s in told)
    return "No scratch run of the same seed to compare with."


def _persistence_table(tables: Tables, rows: pd.DataFrame) -> Table:
    head = (
        "run", "probe", "heads at the level, end of PPT", "of these at the end", "score, end of PPT", "after the swap", "at the end",
        "rank correlation", "p", "of scratch", "half lost after", "and by",
    )  # fmt: skip
    body = tuple(
        (
            r.run, r.probe, whole(r.best), whole(r.persisted), fixed(r.best_ppt), fixed(r.best_swap), fixed(r.best_end), signed(r.rho, 2),
            p_value(r.p), signed(r.scratch_rho, 2), _tokens(r.half_after), _tokens(r.half_by, r.half_state),
        )
        for r in each(rows)
    )  # fmt: skip
    caption = (
        "Rank correlation over heads of the scores at the end of pre-pre-training with those at the end of training; p: share of permutations "
        "within layers that reach it; of scratch: the same with the scratch run of the seed, which began with the same weights. Half lost: "
        "between which checkpoints, in tokens, the mean score of these heads fell to half of what it was above chance."
    )
    return Table(head, body, caption, frozenset(range(2, 12)), "tab-persistence", folded=True)


def _tokens(value: float, state: str = "") -> str:
    return "never" if state in ("never", "unconfirmed") else short(value)


def section(tables: Tables) -> tuple[Section, ...]:
    """Emergence and persistence."""
    if tables.collection is not None:
        return model_series.sections(tables)
    title = "When heads appear, and whether they stay"
    return (Section("emergence", title, (*appearance(tables), *persistence(tables))),)
