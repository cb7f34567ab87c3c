"""A recommendation as code: regimes to paste into a recipe, or a whole recipe that puts the recommendation to the test."""

from __future__ import annotations

from nca_interp.analysis.matching import Match
from nca_interp.data.specs import NcaSpec, TextSpec

SHOWN = ("n_states", "band", "dt")


def regimes(match: Match) -> str:
    """Python source of two regimes: the nearest cell, and the farthest one as the control that the hypothesis needs."""
    far = match.ordered[-1]
    return f"""from nca_interp.config import Regime
from nca_interp.data.specs import NcaSpec

# nearest to {_comment(match.label)}: distance {match.distance:.2f}; cannot be told apart from it: {len(match.tied) - 1} other cells
MATCHED = Regime(
    name="nca-matched",
    label="NCA, {_comment(match.nearest.name)}",
    source={_source(match.nearest.spec)},
)
# farthest on the grid: distance {match.cells.distance.iloc[-1]:.2f}
MISMATCHED = Regime(
    name="nca-mismatched",
    label="NCA, {_comment(far.name)}",
    source={_source(far.spec)},
    role="complexity",
)
"""


def recipe(match: Match, spec: TextSpec | None, command: str) -> str:
    """Python source of a recipe file for `runs/`: the laptop study with these two regimes and scratch, on the corpus
    itself where it is a text."""
    domains = ""
    if spec is not None:
        fields = spec.model_dump(mode="json", exclude_defaults=True)
        domains = f"""
    corpus = Domain(
        name="corpus",
        label={match.label!r},
        source=TextSpec.model_validate({fields!r}),
    )"""
    imports = "Domain, Regime, Study" if spec is not None else "Regime, Study"
    specs = "NcaSpec, TextSpec" if spec is not None else "NcaSpec"
    body = regimes(match).split("\n\n", 1)[1]
    change = '"domains": (corpus,), ' if spec is not None else ""
    return f'''"""Does the complexity of the automata matter here? Matched by: {_comment(command)}"""

from nca_interp.config import {imports}
from nca_interp.data.specs import {specs}
from nca_interp.discover import find, run

{body}

@run
def matched() -> Study:
    """The laptop study with a matched and a mismatched NCA regime."""
    base: Study = find("runs", "laptop").value(){domains}
    regimes = (Regime(name="scratch", label="scratch"), MATCHED, MISMATCHED)
    return base.model_copy(update={{"name": "matched", "title": "A matched and a mismatched NCA", {change}"regimes": regimes}})
'''


def _source(spec: NcaSpec) -> str:
    told = {field: getattr(spec, field) for field in SHOWN}
    told |= spec.model_dump(exclude_defaults=True, exclude={*SHOWN, "kind"})
    return f"NcaSpec({', '.join(f'{key}={value!r}' for key, value in told.items())})"


def _comment(text: str) -> str:
    """Text that can stand in a comment or a string of double quotes."""
    return "".join(c if c.isprintable() and c not in '"\\\\' else " " for c in text)
