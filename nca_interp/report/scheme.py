"""A small picture of a study: which sources are seen first, for how long, as how many arms they go on, on which language."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import wrap

from nca_interp.report.charts.numbers import plural, short, spread
from nca_interp.report.tables import Tables

MOST = 10
"""Lanes drawn; a study of more says how many are left out."""
LANE, TOP = 24, 34
"""Pixels of a lane; of the headings above them."""
LETTERS, INSIDE = 27, 20
"""Of a name that fit beside its lane; of a line in the box of the language."""


@dataclass(frozen=True)
class Lane:
    """A source and what becomes of it."""

    label: str
    tokens: str
    """Of the synthetic stage, as text; empty: none."""
    share: float
    """Of the longest synthetic stage, 0 to 1."""
    arms: str


@dataclass(frozen=True)
class Scheme:
    """The whole picture."""

    lanes: tuple[Lane, ...]
    further: int
    """Sources that are not drawn."""
    language: tuple[str, ...]
    """Lines in the box that all lanes lead to."""
    told: str
    """The picture in words."""

    @property
    def height(self) -> int:
        """Pixels."""
        return max(TOP + LANE * len(self.lanes) + (18 if self.further else 0) + 8, TOP + 15 * len(self.language) + 16)


def clip(name: str) -> str:
    """A name that fits beside its lane."""
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"


def groups(tables: Tables) -> list[list[str]]:
    """Regimes that share their synthetic stage, in the study's order."""
    first = {r["name"]: r for r in tables.study["regimes"]}
    found: dict[str, list[str]] = {}
    for name in tables.regimes:
        own = first.get(name, {})
        found.setdefault(f"{own.get('source')}{own.get('ppt')}", []).append(name)
    return list(found.values())


def scheme(tables: Tables) -> Scheme | None:
    """The picture of a study; None where nothing was trained on language."""
    runs = tables.runs
    pt = runs[runs.stage == "pt"]
    if pt.empty:
        return None
    ppt = runs[runs.stage == "ppt"].groupby("regime").tokens.max()
    longest = float(ppt.max()) if len(ppt) else 0.0
    lanes, words = [], []
    for names in groups(tables):
        tokens = max((float(ppt[n]) for n in names if n in ppt), default=0.0)
        label = tables.label(names[0]) if tokens else "nothing (scratch)"
        lanes.append(
            Lane(
                clip(label),
                short(tokens) if tokens else "",
                tokens / longest if longest else 0.0,
                plural(len(names), "arm"),
            )
        )
        words.append(
            f"{label}, {short(tokens) + ' tokens' if tokens else 'no synthetic stage'}, {plural(len(names), 'arm')}"
        )
    domains = list(tables.domains.values())
    fine = runs[runs.stage == "ft"]
    budget = spread(pt.groupby("domain").tokens.max())
    language = (
        *wrap(f"{budget} tokens of", INSIDE), *(line for d in domains[:2] for line in wrap(d, INSIDE)[:2]), *([f"and {len(domains) - 2} more"] if len(domains) > 2 else []),
        *(wrap(f"then fine-tuned ({plural(len(fine), 'run')})", INSIDE) if len(fine) else []),
    )  # fmt: skip
    told = (
        f"{plural(len(runs), 'training run')} in {plural(tables.n_seeds, 'seed')}. Seen first: {'; '.join(words)}. Then {budget} tokens of "
        "language, the same rows in the same order for every arm of a seed."
    )
    return Scheme(tuple(lanes[:MOST]), max(0, len(lanes) - MOST), language, told)
