"""Does `nca-interp match` find what is known? Planted automata, texts of known nature, and how arbitrary a footing is.

python benchmarks/matching.py planted     fresh rules of every cell of the default grid, 64 a corpus: confusion tables
python benchmarks/matching.py texts       corpora whose nature is known and on which nothing was decided
python benchmarks/matching.py footings    how the nearest cell moves with choices that should not matter
"""

from __future__ import annotations

import argparse
import string
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from nca_interp.analysis.complexity.calibration import NAMES, Footing, column_means, matched, rows_of, vectors
from nca_interp.analysis.matching.distance import Source, check, distances
from nca_interp.analysis.matching.grid import Grid, load_grid, make_cells
from nca_interp.analysis.matching.matching import AXES, match
from nca_interp.base import UserError
from nca_interp.data.dyck.rows import dyck_rows
from nca_interp.data.specs import DyckSpec, TextSpec, TokenizerSpec
from nca_interp.data.text.corpus import Corpus

ROWS, DRAWS, PER_CELL = 64, 3, 192
"""Rules a planted corpus, corpora a cell, rules drawn a cell."""
BYTES = 1_000_000
"""Of each text."""
pd.set_option("display.width", 200, "display.max_columns", 30, "display.max_rows", 200, "display.max_colwidth", 60)


def quiet(what: str, done: float) -> None:
    """No progress."""


def planted(footing: Footing) -> None:
    """Confusion tables: what cell is found for corpora that are cells."""
    grid = load_grid(make_cells(), footing, quiet)
    rows, points, true = [], [], []
    for i, cell in enumerate(grid.cells):
        drawn = rows_of(cell.spec, footing, PER_CELL, split="planted")
        values = vectors(drawn)
        order = np.random.default_rng(0).permutation(PER_CELL)
        for draw in range(DRAWS):
            pick = order[draw * ROWS : (draw + 1) * ROWS]
            part = drawn._replace(symbols=drawn.symbols[pick], groups=[drawn.groups[i] for i in pick])
            points.append(column_means(values[pick]))
            true.append(i)
            found = match(cell.name, Source(part, values[pick], grid), None, resamples=500)
            rows.append({
                "cell": cell.name, "found": found.nearest.name, "within": cell.name in found.tied, "tied": len(found.tied),
                "resembles": found.resembles,
                **{f"true {a}": str(getattr(cell.spec, a, cell.level)) for a in AXES},
                **{s.setting: s.value for s in found.settings},
                **{f"sure {s.setting}": s.share >= 0.95 for s in found.settings},
            })  # fmt: skip
    table = pd.DataFrame(rows)
    n = len(table)
    print(f"\n{footing}: {n} corpora of {ROWS} rules each, {len(grid.cells)} cells (chance {1 / len(grid.cells):.3f})")
    print(f"exactly the cell                 {(table.cell == table.found).mean():.2f}")
    print(f"the cell among those not told apart {table.within.mean():.2f} (on average {table.tied.mean():.1f} cells)")
    print(f"within the spread of the cell found {table.resembles.mean():.2f}")
    for axis in AXES:
        right, sure = table[axis] == table[f"true {axis}"], table[f"sure {axis}"]
        print(
            f"{axis:9} right {right.mean():.2f}; held by 95 % of the resamples in {sure.mean():.2f}, then right {right[sure].mean():.2f}"
        )
    _sets(grid, np.array(points), np.array(true))
    for axis in AXES:
        print(f"\nrows: true {axis}; columns: found; share of corpora")
        print(pd.crosstab(table[f"true {axis}"], table[axis], normalize="index").round(2).to_string())


def _sets(grid: Grid, points: np.ndarray, true: np.ndarray) -> None:
    """Recovery by the point estimate alone, for other measures and distances."""
    best = [NAMES[i] for i in matched(grid.footing)]
    sets = [
        best,
        *([*best, extra] for extra in NAMES if extra not in best),
        ["gzip"],
        ["gzip", "lempel_ziv"],
        ["gzip", "entropy"],
    ]
    rows = []
    for names in sets:
        columns = [NAMES.index(name) for name in names]
        if np.isnan(points[:, columns]).any() or np.isnan(grid.mean[:, columns]).any():
            continue
        for kind in ("absolute", "rms", "whitened"):
            found = distances(points, grid, columns, kind).argmin(axis=1)  # type: ignore[arg-type]
            same = {axis: np.array([str(getattr(c.spec, axis, c.level)) for c in grid.cells]) for axis in AXES}
            right = {axis: float((v[found] == v[true]).mean()) for axis, v in same.items()}
            rows.append(
                {"measures": ", ".join(names), "distance": kind, "cell": float((found == true).mean()), **right}
            )
    print(
        f"\nshare of corpora found right by other measures and distances\n{pd.DataFrame(rows).round(2).to_string(index=False)}"
    )


def _letters(rng: np.random.Generator, alphabet: str, weights: np.ndarray | None = None) -> Iterator[str]:
    """Documents of independent symbols."""
    while True:
        yield "".join(rng.choice(list(alphabet), 6000, p=weights))


def _sticky(rng: np.random.Generator, alphabet: str, stay: float) -> Iterator[str]:
    """Documents of a chain that repeats its symbol with probability `stay`, else draws a new one."""
    while True:
        fresh = rng.choice(list(alphabet), 6000)
        keep = rng.random(6000) < stay
        last = np.maximum.accumulate(np.where(keep, 0, np.arange(6000)))
        yield "".join(fresh[last])


def _brackets(spec: DyckSpec, signs: str) -> Iterator[str]:
    for rows in dyck_rows(spec, 0, "match", 400, 6000):
        for row in rows:
            yield "".join(signs[t] for t in row)


def _sources(folder: Path, pattern: str) -> Iterator[str]:
    for path in sorted(folder.rglob(pattern)):
        text = path.read_text(encoding="utf-8", errors="ignore")
        if len(text) >= 4096 and "test" not in str(path):
            yield text


def _numbers(rng: np.random.Generator) -> Iterator[str]:
    while True:
        yield "\n".join(",".join(f"{v:.4f}" for v in line) for line in rng.normal(size=(150, 6)))


def _repeats(rng: np.random.Generator) -> Iterator[str]:
    """One sentence again and again, another in every document."""
    words = ["river", "table", "green", "seven", "cloud", "paper", "north", "glass", "horse", "music", "stone", "lemon"]
    while True:
        yield (" ".join(rng.choice(words, 8)) + ". ") * 130


def _lines(rng: np.random.Generator) -> Iterator[str]:
    """One line of code again and again, another in every document."""
    while True:
        a, b, c = rng.integers(10, 99, 3)
        yield f"    if value_{a} > {b}:\n        total[{c}] += value_{a} * {b}\n" * 100


def _rate(stay: float, k: int) -> float:
    """Entropy rate of `_sticky` as a share of ln k."""
    same, other = stay + (1 - stay) / k, (1 - stay) / k
    return -(same * np.log(same) + (k - 1) * other * np.log(other)) / np.log(k)


def known_texts() -> dict[str, tuple[str, Callable[[], Iterator[str]]]]:
    """Name -> (what is known of it, its documents). Nothing was decided on them, but for "a sentence repeated": see docs/matching.md."""
    rng = np.random.default_rng(1)
    stdlib, headers = Path(sysconfig.get_paths()["stdlib"]), Path(np.get_include())
    biased = np.array([0.9, *[0.1 / 9] * 9])
    share = -(biased * np.log(biased)).sum() / np.log(10)
    return {
        "random base64": ("the most complex", lambda: _letters(rng, string.ascii_letters + string.digits + "+/")),
        "random ACGT": ("the most complex", lambda: _letters(rng, "ACGT")),
        "random digits": ("the most complex", lambda: _letters(rng, string.digits)),
        "biased digits": (f"entropy rate {100 * share:.0f} % of the most", lambda: _letters(rng, string.digits, biased)),
        "chain, stay 0.5": (f"entropy rate {100 * _rate(0.5, 8):.0f} %", lambda: _sticky(rng, "abcdefgh", 0.5)),
        "chain, stay 0.8": (f"entropy rate {100 * _rate(0.8, 8):.0f} %", lambda: _sticky(rng, "abcdefgh", 0.8)),
        "numbers in columns": ("mostly random digits", lambda: _numbers(rng)),
        "brackets, nested, 8 kinds": ("half the symbols are free", lambda: _brackets(DyckSpec(k=8, max_depth=16), "abcdefghABCDEFGH")),
        "brackets, 1 kind": ("a walk of +-1", lambda: _brackets(DyckSpec(k=1, max_depth=32), "()")),
        "prose (docstrings A)": ("prose, above code", lambda: (d.text for d in Corpus(TextSpec(source="site:prose-a")))),
        "code (Python library)": ("code, below prose", lambda: _sources(stdlib, "*.py")),
        "code (C headers)": ("code, below prose", lambda: _sources(headers, "*.h")),
        "a sentence repeated": ("the least complex", lambda: _repeats(rng)),
        "a line of code repeated": ("the least complex", lambda: _lines(rng)),
        "one letter": ("the least complex", lambda: (c * (5000 + i) for i, c in enumerate(string.ascii_letters * 4))),
    }  # fmt: skip


def _spec(folder: Path, name: str, documents: Iterator[str]) -> TextSpec:
    path, size, lines = folder / f"{len(list(folder.iterdir()))}.jsonl", 0, []
    for text in documents:
        lines.append(pd.Series({"text": text}).to_json())
        size += len(text)
        if size >= BYTES:
            break
    path.write_text("\n".join(lines))
    return TextSpec(source=f"files:{path}", tokenizer=TokenizerSpec(vocab_size=1024))


def texts() -> None:
    """The recommendation for every known text."""
    grids = {f: load_grid(make_cells(), f, quiet) for f in ("symbols", "tokens")}
    rows = []
    with TemporaryDirectory() as where:
        for name, (known, documents) in known_texts().items():
            spec = _spec(Path(where), name, documents())
            main = _source(spec, grids["symbols"])
            assert main is not None
            other = _source(spec, grids["tokens"])
            found = match(name, main, other)
            point = dict(zip(NAMES, column_means(main.values), strict=True))
            read = np.full(len(NAMES), np.nan) if other is None else column_means(other.values)
            rows.append({
                "text": name, "known": known, "gzip": point["gzip"], "LZ": point["lempel_ziv"], "H1": point["conditional_entropy"],
                "H0": point["entropy"], "MI": point["mutual_information"], "nearest": found.nearest.name,
                "distance": found.distance, "own": found.own_spread, "tied": len(found.tied),
                **{s.setting: f"{s.verdict[:5]} {s.agree}/{s.readings}" for s in found.settings},
                "tokens": next((r.cell.name for r in found.readings if r.reading == "tokens"), "-"),
                "gzip t.": read[NAMES.index("gzip")], "H0 t.": read[NAMES.index("entropy")],
            })  # fmt: skip
            print(rows[-1], flush=True)
    print(pd.DataFrame(rows).round(2).to_string(index=False))


def _source(spec: TextSpec, grid: Grid) -> Source | None:
    try:
        rows = rows_of(spec, grid.footing, PER_CELL)
        check(rows, spec.source, grid.footing)
    except UserError:
        return None
    return Source(rows, vectors(rows), grid)


def footings() -> None:
    """The nearest cell of prose and code under choices that should not matter."""
    grids = {f: load_grid(make_cells(), f, quiet) for f in ("symbols", "tokens")}
    rows = []
    for source in ("site:prose-b", "site:code", "arithmetic:"):
        spec = TextSpec(source=source, max_bytes=4_000_000)
        for footing, choices in (("symbols", ("in use", "256")), ("tokens", ("512", "1024", "2048", "4096", "16384"))):
            for choice in choices:
                if footing == "tokens":
                    spec = spec.model_copy(update={"tokenizer": TokenizerSpec(vocab_size=int(choice))})
                main = _source(spec, grids[footing])  # type: ignore[index]
                if main is None:
                    continue
                if choice == "256":
                    wide = main.rows._replace(alphabet=256)
                    main = main._replace(rows=wide, values=vectors(wide))
                d = distances(column_means(main.values), main.grid, main.columns)
                best = main.grid.cells[int(d.argmin())]
                rows.append(
                    {"corpus": source, "footing": footing, "choice": choice, "nearest": best.name, "distance": d.min()}
                )
    print(pd.DataFrame(rows).round(3).to_string(index=False))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("planted", "texts", "footings"))
    parser.add_argument("--footing", choices=("symbols", "tokens"), default="symbols", help="of planted")
    arguments = parser.parse_args()
    if arguments.what == "planted":
        planted(arguments.footing)
    else:
        {"texts": texts, "footings": footings}[arguments.what]()
