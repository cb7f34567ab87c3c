"""The page of two reports side by side: claims, planned comparisons, and in what their plans differ. Reads their records only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nca_interp.base import UserError
from nca_interp.config import Study
from nca_interp.differences import completed
from nca_interp.files import write_json
from nca_interp.outputs import check_output, records
from nca_interp.report.charts.numbers import DASH, absent, interval, listing, plural, signed, whole
from nca_interp.report.page import ClaimBox, Claimed, Found, Item, Note, Page, Section, Table
from nca_interp.report.record import read_record, record, rows_of
from nca_interp.report.render import check_page, write_page
from nca_interp.report.sections.claims import JUDGED, NOT_TESTED, bar, numbers
from nca_interp.report.sections.method import flat, written

ABSENT = "(absent)"
NO_TEST = (
    "Nothing here tests one report against the other: intervals and verdicts are those of each alone, and of two effects one may be shown and the "
    "other not although they do not differ."
)
LONG = 160
"""Characters of a value of a configuration that is written whole."""


class Pair:
    """Two reports of studies, and how they are called on the page."""

    def __init__(self, first: Path, second: Path) -> None:
        self.paths = (first, second)
        self.records = (_study(first), _study(second))
        known = [f"{r['study']}, {r['created'][:10]}".rstrip(", ") for r in self.records]
        if known[0] == known[1]:
            known = [f"{r['study']}, {r['created'].replace('T', ' ').rstrip('Z') or '?'}" for r in self.records]
        self.names = tuple(f"{letter} ({name})" for letter, name in zip("AB", known, strict=True))

    def rows(self, table: str, *keys: str) -> dict[tuple[str, ...], list[dict[str, Any] | None]]:
        """Rows of `claims` or `verdicts` by these keys, in the order of A, then those that only B has: one of each report, or None."""
        found: dict[tuple[str, ...], list[dict[str, Any] | None]] = {}
        for place, one in enumerate(self.records):
            for row in one[table]:
                found.setdefault(tuple(str(row.get(key) or "") for key in keys), [None, None])[place] = row
        return found


def _study(path: Path) -> dict[str, Any]:
    found = read_record(path)
    if found["page"] != "study":
        raise UserError(f"{path}: the page of a {found['page']}; legal for --against: two reports of studies")
    known = {key: rows_of(found, key, path) for key in ("claims", "verdicts")}
    return {"provenance": {}, "tables": {}, "warnings": [], **found, **known}


def write_against(first: Path, second: Path) -> Path:
    """Write the page of `first` against `second` (folders of studies with a report, pages, or their report.json) beside the first
    one's, and its record; returns the path. UserError says what is no report of a study; nothing is written then."""
    pair = Pair(first, second)
    folder = first if first.is_dir() else first.parent
    other = second.resolve() if second.is_dir() or second.stem != "report" else second.resolve().parent
    path = folder / f"against-{other.name if other.is_dir() else other.stem}.html"
    check_page(path)
    if not path.exists():  # beside a page of ours lies its record, whole or damaged
        check_output("report", path.with_suffix(".json"), "record of a page", records("study"))
    page = against_page(pair)
    write_page(page, path)
    write_json(path.with_suffix(".json"), page.record)
    return path


def against_page(pair: Pair) -> Page:
    """Claims first, then in what the plans differ, then every planned comparison."""
    a, b = pair.records
    title = a["title"] if a["title"] == b["title"] else f"{a['title']} against {b['title']}"
    differences = plan(pair)
    sections = (
        Section("claims", "Claims side by side", (*_claims(pair),), group="Two reports"),
        Section("differences", "What differs in the plan", (*_plan(pair, differences),)),
        Section("comparisons", "Planned comparisons", (*_comparisons(pair),), folded=True),
        Section("software", "Software, machine, tables", (*_software(pair),), folded=True),
    )
    facts = tuple(
        (name, f"{one['command'] or 'command not known'}; {_seeds(one)}") for name, one in zip(pair.names, pair.records, strict=True)
    )  # fmt: skip
    told = cautions(pair, differences)
    made = {
        "command": f"nca-interp report {pair.paths[0]} --against {pair.paths[1]}",
        "created": max(a["created"], b["created"]),
    }
    rest = {
        "between": [{"name": n, "study": r["study"], "created": r["created"], "command": r["command"], "provenance": r["provenance"]} for n, r in zip(pair.names, pair.records, strict=True)],
        "claims": [{**row, "of": letter} for letter, one in zip("AB", pair.records, strict=True) for row in one["claims"]],
        "verdicts": [{**row, "of": letter} for letter, one in zip("AB", pair.records, strict=True) for row in one["verdicts"]],
        "differences": [{"key": key, "a": x, "b": y} for key, x, y in differences],
        "warnings": list(told), "provenance": made,
        "tables": {f"{letter}/{file}": sha for letter, one in zip("AB", pair.records, strict=True) for file, sha in one["tables"].items()},
    }  # fmt: skip
    head = record("against", f"{a['study']}-against-{b['study']}", title, made, rest)
    return Page(title, "Two reports side by side", facts, told, (), sections, head, opening=1)


def _seeds(one: dict[str, Any]) -> str:
    seeds = one.get("configuration", {}).get("seeds")
    return plural(len(seeds), "seed") if seeds else "seeds not known"


def cautions(pair: Pair, differences: list[tuple[str, str, str]]) -> tuple[str, ...]:
    """What the two beside each other do not say."""
    a, b = pair.records
    told = [NO_TEST]
    if a["tables"] and a["tables"] == b["tables"]:
        told.append("Both were made from the same tables.")
    for name, one in zip(pair.names, pair.records, strict=True):
        if "configuration" not in one:
            told.append(
                f"{name} was written by an earlier version, without its configuration: in what the plans differ is not known."
            )
    first, second = (one.get("configuration", {}).get("seeds") or [] for one in pair.records)
    common = [seed for seed in first if seed in second]
    if common and a["tables"] != b["tables"]:
        told.append(
            f"{plural(len(common), 'seed')} of both {'is' if len(common) == 1 else 'are'} the same: where the plans agree these are the same runs "
            "again, no replication."
        )
    if any(key.startswith(("model", "pt", "ppt", "domains", "seeds")) for key, _, _ in differences):
        told.append("The plans differ in model, budgets, domains or seeds: the effects are of different settings.")
    return tuple(told)


def _claims(pair: Pair) -> list[Item]:
    rows = pair.rows("claims", "claim", "domain")
    if not rows:
        return [Note("Neither report holds a claim.")]
    found: dict[str, list[Found]] = {}
    heads: dict[str, dict[str, Any]] = {}
    changed = []
    for (claim, domain), both in rows.items():
        head = next(row for row in both if row is not None)
        heads.setdefault(claim, head)
        words = [row["verdict"] if row else "not claimed" for row in both]
        if words[0] != words[1]:
            changed.append(f"“{head['says']}”{f' ({domain})' if domain else ''}: {words[0]} in A, {words[1]} in B")
        found.setdefault(claim, []).extend(_sides(pair, domain, both))
    boxes = tuple(
        Claimed(claim, heads[claim]["says"], heads[claim]["source"], tuple(one)) for claim, one in found.items()
    )
    same = f"{plural(len(rows) - len(changed), 'verdict')} of {len(rows)} the same."
    return [Note(f"{same} {'Others: ' + '; '.join(changed) + '.' if changed else ''}".strip()), ClaimBox(boxes, ())]


def _sides(pair: Pair, domain: str, both: list[dict[str, Any] | None]) -> Iterator[Found]:
    """Both sides of a claim, their intervals on one line."""
    known = [row for row in both if row and not absent(row["effect"])]
    ends = [float(v) for row in known for v in (row["low"], row["high"], row["zero"]) if not absent(v)]
    span = (min(ends), max(ends)) if ends else None
    for name, row in zip(pair.names, both, strict=True):
        place = f"{name.split(' ')[0]}{', ' + domain if domain else ''}"
        if row is None:
            yield Found(place, "not claimed", "", "This report does not name the claim in this domain.", "")
            continue
        told = "" if absent(row["effect"]) or row["verdict"].startswith(NOT_TESTED) else numbers(row)
        judged = JUDGED.get(row.get("judged") or "", "")
        yield Found(place, row["verdict"], told, row["sentence"], row["change"], judged, bar=bar(row, span))


def plan(pair: Pair) -> list[tuple[str, str, str]]:
    """(key, value in A, value in B) of all in which the two configurations differ; what only one has is one row."""
    sides = [one.get("configuration") for one in pair.records]
    if any(side is None for side in sides):
        return []
    a, b = (completed(Study, side) for side in sides)
    return list(_differ(a, b, ""))


def _differ(a: Any, b: Any, path: str) -> Iterator[tuple[str, str, str]]:
    a, b = _named(a), _named(b)
    if isinstance(a, dict) and isinstance(b, dict):
        for key in [*a, *(k for k in b if k not in a)]:
            yield from _differ(a.get(key, ABSENT), b.get(key, ABSENT), f"{path}.{key}".lstrip("."))
    elif a != b:
        yield path, _value(a), _value(b)


def _named(value: Any) -> Any:
    """A list of named things as a dictionary by name: their order is no difference."""
    if isinstance(value, list) and value and all(isinstance(v, dict) and "name" in v for v in value):
        return {v["name"]: v for v in value}
    return value


def _value(value: Any) -> str:
    if value == ABSENT:
        return DASH
    text = ", ".join(f"{key} {written(v)}" for key, v in flat(value)) if isinstance(value, dict) else written(value)
    return text if len(text) <= LONG else f"{text[:LONG]} …"


def _plan(pair: Pair, differences: list[tuple[str, str, str]]) -> list[Item]:
    if any("configuration" not in one for one in pair.records):
        return [Note("Not known: a report of an earlier version does not hold its configuration.")]
    if not differences:
        return [Note("Nothing: the two configurations are the same.")]
    caption = f"{plural(len(differences), 'value')} of the configuration. A dash: this plan has no such thing."
    return [Table(("key", *pair.names), tuple(differences), caption, id="tab-differences")]


def _comparisons(pair: Pair) -> list[Item]:
    rows = pair.rows("verdicts", "domain", "metric", "treated", "control")
    if not rows:
        return [Note("Neither report holds a planned comparison.")]
    body = tuple(
        (f"{treated} against {control}", domain or DASH, metric.replace("_", " "), *(cell for row in both for cell in _cells(row)))
        for (domain, metric, treated, control), both in rows.items()
    )  # fmt: skip
    parts = [f"{name}{letter}" for letter in "AB" for name in ("effect, ", "95 % alone, ", "seeds, ", "verdict, ")]
    head = ("comparison", "domain", "metric", *parts)
    return [
        Table(
            head,
            body,
            "Treated minus control, of each report by its own plan.",
            frozenset({3, 4, 5, 7, 8, 9}),
            "tab-both",
        )
    ]


def _cells(row: dict[str, Any] | None) -> tuple[str, ...]:
    if row is None:
        return (DASH, DASH, DASH, "not planned")
    return signed(row["effect"]), interval(row["low"], row["high"]), whole(row["n"]), str(row["verdict"]) or DASH


def _software(pair: Pair) -> list[Item]:
    made = [dict(flat(one["provenance"])) for one in pair.records]
    keys = [
        key for key in [*made[0], *(k for k in made[1] if k not in made[0])] if made[0].get(key) != made[1].get(key)
    ]
    rows = tuple((key.replace("_", " "), *(written(m[key]) if key in m else DASH for m in made)) for key in keys)
    files = [one["tables"] for one in pair.records]
    same = [name for name in files[0] if files[0][name] == files[1].get(name)]
    items: list[Item] = (
        [
            Table(
                ("fact", *pair.names),
                rows,
                f"{plural(len(rows), 'fact')} of software and machine that differ.",
                id="tab-software",
            )
        ]
        if rows
        else []
    )
    return [
        *items,
        Note(
            f"{len(same)} of {len(set(files[0]) | set(files[1]))} tables are the same{': ' + listing(same) if 0 < len(same) < 12 else ''}."
        ),
    ]
