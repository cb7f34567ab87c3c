"""The page on one source: what `analysis.inspection` wrote, its head, cautions, tables of numbers, and provenance."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import pandas as pd

from nca_interp.report.charts.numbers import (
    DASH,
    absent,
    fixed,
    listing,
    plain,
    plural,
    short,
    signed,
    significant,
    whole,
)
from nca_interp.report.page import Item, Note, Page, Section, Table
from nca_interp.report.pages.folder import Folder
from nca_interp.report.sections.method import flat, written
from nca_interp.report.tables import each

FEW_GROUPS = 30
RARE = 0.2
"""Share of blocks seen once above which a pooled conditional entropy tells mostly the size of the sample."""
LIMITS = (
    "Every measure depends on the length of a row, the alphabet and the tokenizer: compare sources only where these are the same, or by the measures that are normalised for them.",
    "The intervals speak of other rows of this very source, not of other settings.",
    "Histograms and intervals of many measures on the same rows are exploration: no multiplicity is corrected for.",
)


class Inspection(Folder):
    """The folder of one inspection: `record`, and a data frame a table."""

    file, report, command = "inspect.json", "inspect", "nca-interp data inspect SOURCE"
    kind = "inspection"

    def table(self, name: str) -> pd.DataFrame:
        """One table; empty where the source has none."""
        path = self.folder / "tables" / f"{name}.csv"
        if not path.is_file():
            return pd.DataFrame()
        text = dict.fromkeys(("group", "note", "name"), str)
        return pd.read_csv(path, dtype=text, keep_default_na=False, na_values={"value": "", "sequence": ""} | _EMPTY)

    @cached_property
    def measures(self) -> pd.DataFrame:
        """One row a measured value: measure, sequence, group, value, note, sample."""
        return self.table("measures")

    @cached_property
    def summary(self) -> pd.DataFrame:
        """One row a measure."""
        return self.table("summary")

    @property
    def spec(self) -> dict[str, Any]:
        """The specification."""
        return dict(self.record["spec"])

    def mean(self, measure: str) -> float | None:
        """Mean of one measure over the rows, None where it was not measured."""
        found = self.summary[self.summary.measure == measure].value
        return float(found.iloc[0]) if len(found) and not absent(float(found.iloc[0])) else None

    def note(self, measure: str) -> str:
        """Why a measure has no value; empty where it has one."""
        found = self.summary[self.summary.measure == measure].note
        return str(found.iloc[0]) if len(found) else ""


_EMPTY = dict.fromkeys(("low", "high", "sd", "q05", "q50", "q95", "fitted"), "")


def inspection_page(source: Inspection, sections: tuple[Section, ...]) -> Page:
    """A page around `sections`."""
    record = source.record
    tokens = record["rows"] * record["length"]
    warned = tuple(cautions(source))
    facts = (
        ("Sample", f"{plural(record['rows'], 'row')} of {whole(record['length'])} tokens: {short(tokens)} tokens"),
        ("Independent", plural(record["groups"], source.unit)),
        ("Vocabulary", f"{whole(record['vocab_size'])} tokens"),
        ("Seed and split", f"{record['seed']}, {record['split']}"),
    )
    said = {k: v for k, v in record.items() if k != "examples"}
    return source.page(
        f"Inspection of {_called(record)}",
        facts,
        warned,
        sections,
        {"study": record["name"], "warnings": list(warned), **said},
    )


def _called(record: dict[str, Any]) -> str:
    """The source as it was typed, with places to break the line."""
    words = [
        record["source"].replace(",", ", ") if record["kind"] != "text" else record["source"],
        *record["overrides"],
    ]
    return " ".join(words)


def cautions(source: Inspection) -> Iterator[str]:
    """Warnings that the numbers themselves give rise to, most severe first."""
    record = source.record
    if record["rows"] < record["asked_rows"]:
        yield f"The corpus gave {plural(record['rows'], 'row')} instead of the {record['asked_rows']} asked for."
    if record["groups"] < 2:
        yield f"All rows come from one {source.unit}: there are no intervals."
    elif record["groups"] < FEW_GROUPS:
        yield f"The rows come from only {plural(record['groups'], source.unit)}, the units that the intervals are made of."
    if "stand-in" in record["description"]:
        yield f"The corpus is a {record['description']}."
    yield from _gzip_blind(source)
    yield from _rare(source)
    if record["kind"] == "nca":
        yield from _nca(source)
    for note, rows in source.summary[source.summary.note != ""].groupby("note", sort=False):
        yield f"Left out: {listing(words(m) for m in rows.measure)} ({note})."


def _gzip_blind(source: Inspection) -> Iterator[str]:
    ratio, shuffled = source.mean("gzip_ratio"), source.mean("gzip_ratio_shuffled")
    if ratio is None or shuffled is None:
        return
    change = (shuffled - ratio) / ratio
    if abs(change) < 0.1:
        yield (
            f"gzip hardly sees the order of these tokens: the mean ratio is {fixed(ratio)}, and {fixed(shuffled)} ({signed(100 * change, 0)} %) "
            "after each row is shuffled. It tells how unevenly tokens are used, not how they follow each other."
        )


def _rare(source: Inspection) -> Iterator[str]:
    for name, found in source.record["sample_size"].items():
        value = source.mean(name)
        if value is not None and found["once"] > RARE:
            blocks = "pairs" if name == "conditional_entropy" else "triples"
            yield (
                f"{words(name)}, {significant(value)} nats, is mostly sample size: {100 * found['once']:.0f} % of the {blocks} of tokens occur only once. "
                f"Without any order it would be about {significant(found['unigram'])} (the entropy of single tokens), and the tokens shuffled over all rows, which have none, "
                f"give {significant(found['shuffled'])} here."
            )


def _nca(source: Inspection) -> Iterator[str]:
    spec, found = source.spec, source.record["found"] or {}
    rate = found.get("acceptance_rate")
    if rate is not None and rate < 0.02:
        yield f"The filter accepts {100 * rate:.2g} % of random rules ({whole(found['candidates_tried'])} were tried for these rows): generation is slower by as much."
    if spec["band"] is not None:
        serial = "int32" if spec["variant"] == "release" else "uint16 (uint32 above 65,536 tokens)"
        yield (
            f"The band is on the scale of the {spec['variant']} variant (patch tokens of {spec['score_frames']} frames as {serial}); "
            "bands of another variant, alphabet, patch or number of frames are another selection."
        )
    coverage = source.mean("stencil_coverage")
    if coverage is not None and coverage < 0.5:
        yield f"stencil entropy is an underestimate: only {100 * coverage:.0f} % of the transitions have a 3 x 3 neighbourhood that occurs twice in its row."
    censored = source.mean("recurs")
    if censored is not None and censored < 1 and source.mean("period") is not None:
        yield f"transient and period describe only the {100 * censored:.0f} % of rows that show a whole grid twice."


def words(measure: str) -> str:
    """A measure's name as it is written in a sentence."""
    text = measure.replace("_", " ")
    return text.replace("lempel ziv", "Lempel-Ziv").replace("zipf", "Zipf").replace("mi ", "MI ")


def table_of_measures(source: Inspection) -> list[Item]:
    """Every measure with its value, interval, spread, n and definition."""
    body = tuple(
        (
            words(r.measure), significant(r.value), _between(r.low, r.high), significant(r.sd),
            DASH if absent(r.q05) else f"{significant(r.q05)} to {significant(r.q95)}", whole(r.n), whole(r.groups), r.unit,
            f"{r.definition}{'; pooled over all rows' if r.pooled else ''}{_of_size(source, r.measure)}{f' ({r.note})' if r.note else ''}",
        )
        for r in each(source.summary)
    )  # fmt: skip
    head = (
        "measure",
        "value",
        "95 % interval",
        "sd",
        "5 to 95 %",
        "rows",
        "units" if source.unit == "row" else f"{source.unit}s",
        "unit",
        "definition",
    )
    caption = (
        f"{plural(len(body), 'measure')}: mean over rows, t-interval with the {source.unit} as the independent unit (yes or no: Wilson); pooled ones with a jackknife "
        "over ten parts of the sample, fits without an interval. sd and the range are those of single rows."
    )
    return [Table(head, body, caption, frozenset(range(1, 7)), "tab-inspected")]


def _of_size(source: Inspection, measure: str) -> str:
    """What the tokens shuffled over all rows give for a pooled conditional entropy."""
    found = source.record["sample_size"].get(measure)
    if found is None or source.mean(measure) is None:
        return ""
    size = "; mostly sample size" if found["once"] > RARE else ""
    return f"; shuffled over all rows: {significant(found['shuffled'])}{size}"


def _between(low: float, high: float) -> str:
    return DASH if absent(low) or absent(high) else f"[{significant(low)}, {significant(high)}]"


def band_table(source: Inspection) -> list[Item]:
    """Share of random rules in each band, with its Wilson interval."""
    rows = source.table("bands")
    if rows.empty:
        return []
    body = tuple(
        (
            _range(r, source.spec), f"{100 * r.share:.1f} %", f"{100 * r.low:.1f} to {100 * r.high:.1f} %", whole(r.inside), whole(r.n),
            DASH if r.inside == 0 else f"{r.n / r.inside:,.1f}",
        )
        for r in each(rows)
    )  # fmt: skip
    head = ("gzip ratio of a rule", "accepted", "95 % interval (Wilson)", "rules inside", "rules tried", "tries a rule")
    return [Table(head, body, "Share of random rules that each band accepts.", frozenset(range(1, 6)), "tab-bands")]


def _range(row: Any, spec: dict[str, Any]) -> str:
    text = f"[{row.band_low:g}, {row.band_high:g})"
    if row.band_low == 0:
        text = f"below {row.band_high:g}"
    elif row.band_high >= 10:
        text = f"{row.band_low:g} and above"
    if not row.asked:
        return text
    asked = [text] if spec["band"] is not None else []
    asked += [f"{words(name)} [{low:g}, {high:g})" for name, (low, high) in spec["where"].items()]
    return f"asked for: {', '.join(asked)}"


def provenance(source: Inspection) -> list[Item]:
    """Specification, software, machine, tables."""
    facts = tuple((k.replace("_", " "), written(v)) for k, v in source.record["provenance"].items())
    spec = tuple((k, written(v)) for k, v in flat(source.spec))
    found = tuple((k.replace("_", " "), written(v)) for k, v in flat(source.record["found"] or {}))
    items: list[Item] = [
        Table(("fact", "value"), facts, "Software, machine and command.", id="tab-machine", folded=True),
        Table(("field", "value"), spec, "The whole specification.", id="tab-config", folded=True),
    ]
    if found:
        met = "the search for rules" if source.record["kind"] == "nca" else "the making of these tokens"
        items.append(Table(("fact", "value"), found, f"What {met} met.", id="tab-found", folded=True))
    files = tuple(source.hashes().items())
    return [*items, Table(("file", "SHA-256"), files, "Tables beside this page.", id="tab-files", folded=True)]


def reproduce(source: Inspection) -> list[Item]:
    """The exact command, the commit, and how long it took."""
    made = source.record["provenance"]
    lines = [f"git checkout {made['git_commit']}"] if made.get("git_commit") else []
    changed = " (with uncommitted changes)" if made.get("git_dirty") else ""
    return [
        Note("\n".join([*lines, made["command"]]), code=True),
        Note(
            f"nca-interp {made['version']}{changed}; {plain(round(made['seconds'], 1))} seconds on {made['cpu']} ({plural(made['cores'], 'core')}).",
            quiet=True,
        ),
    ]


def limits(source: Inspection) -> list[Item]:
    """What these numbers cannot say."""
    return [Note(text) for text in LIMITS]
