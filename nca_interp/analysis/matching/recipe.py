"""A recommendation as code: regimes to paste into a recipe, or a whole recipe that puts the recommendation to the test."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from nca_interp.analysis.matching.grid import Cell
from nca_interp.analysis.matching.matching import Match, Setting, value_of
from nca_interp.base import digest
from nca_interp.data.specs import NcaSpec, TextSpec
from nca_interp.data.text.files import COMPRESSED, TEXT_FILES

SHOWN = ("n_states", "band", "dt")


def regimes(match: Match) -> str:
    """Python source of the regimes MATCHED, the nearest cell, and OTHERS, the same automata of every other complexity: the
    controls without which nothing says that matching matters."""
    others = "".join(
        f'    Regime(name="{_name(cell)}", label="NCA, {_quoted(cell.name)}", source={_source(cell.spec)}, role="complexity"),\n'
        for cell in controls(match)
    )
    return f"""from nca_interp.config import Regime
from nca_interp.data.specs import NcaSpec

# nearest to {_quoted(match.label)}
MATCHED = Regime(
    name="nca-matched",
    label="NCA, {_quoted(match.nearest.name)}",
    source=NcaSpec(
{_commented(match)}
    ),
)
# the same automata of other complexity: without them nothing says that matching matters
OTHERS = (
{others})
"""


def controls(match: Match) -> list[Cell]:
    """The cells of the grid that differ from the nearest in the band alone; else the farthest one."""
    mine = match.nearest.spec
    same = [c for c in match.ordered[1:] if c.spec.model_copy(update={"band": mine.band}) == mine]
    return sorted(same, key=lambda c: c.spec.band or (0.0, 0.0)) or list(match.ordered[1:][-1:])


def recipe(match: Match, spec: TextSpec | None, command: str) -> str:
    """Python source of a recipe file for `runs/`: the laptop study with scratch and these regimes, on the corpus itself
    where it is a text. Analysed, it is a study for `--study`."""
    imports, specs, domain, change = "Regime, Study", "NcaSpec", "", ""
    if spec is not None:
        imports, specs = "Domain, Regime, Study", "NcaSpec, TextSpec"
        change = ', "domains": (corpus,)'
        fields = spec.model_dump(mode="json", exclude_defaults=True) | {"source": _absolute(spec.source)}
        domain = f"""
    corpus = Domain(name="corpus", label={match.label!r}, source=TextSpec.model_validate({fields!r}))"""
    body = regimes(match).partition("\n\n")[2]
    return f'''{head(match.label)} Made by: {_quoted(command)}"""

from nca_interp.config import {imports}
from nca_interp.data.specs import {specs}
from nca_interp.discover import find, run
from nca_interp.model.presets import PRESETS

{body}

@run
def {run_name(match.label).replace("-", "_")}() -> Study:
    """The laptop study, at a context of 256, with NCA of the matched and of every other complexity.

    Can conclude: whether NCA of the matched complexity lowers the loss on this corpus more than scratch does, and which of the others do.
    Cannot conclude: that complexity is what matters, where they differ in more; anything at another size or budget.
    """
    base: Study = find("runs", "laptop").value(){domain}
    regimes = (Regime(name="scratch", label="scratch"), MATCHED, *OTHERS)
    return base.model_copy(update={{"name": "{run_name(match.label)}", "title": "NCA of matched and of other complexity", "regimes": regimes, "model": PRESETS["mini"], "primary": None{change}}})
'''


def head(label: str) -> str:
    """How every recipe for a corpus begins."""
    return f'"""Does it matter that the automata are as complex as {_quoted(label)}?'


def _absolute(source: str) -> str:
    """A text source that means the same in every working directory."""
    scheme, _, rest = source.partition(":")
    if scheme != "files":
        return source
    return "files:" + ",".join(os.path.abspath(os.path.expanduser(part.strip())) for part in rest.split(","))


def run_name(label: str) -> str:
    """What the recipe of a corpus is called: `nca-interp train matched-<corpus>`, with a hash where nothing of the corpus's
    name can stand in a run's."""
    path = Path(label)
    while path.suffix in (*TEXT_FILES, *COMPRESSED):
        path = path.with_suffix("")
    return f"matched-{_slug(path.name)[:30].strip('-') or digest(label, 8)}"


def _slug(text: str) -> str:
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")


def _name(cell: Cell) -> str:
    return f"nca-{_slug(cell.level)}"


def _commented(match: Match) -> str:
    """The fields of the nearest cell, a line each, with a comment where a field is inconclusive."""
    axes = {"band" if s.setting == "level" else s.setting: s for s in match.settings}
    return "\n".join(
        f"        {key}={value!r},{_comment(match, axes[key]) if key in axes else ''}"
        for key, value in _fields(match.nearest.spec).items()
    )


def _comment(match: Match, setting: Setting) -> str:
    if setting.verdict != "inconclusive":
        return ""
    every = {value_of(cell, setting.setting) for cell in match.ordered} == {setting.value, *setting.others}
    if every or any(failure.condition == "edge" for failure in setting.failed):
        return "  # inconclusive: any would do"
    return (
        f"  # inconclusive: {_quoted(', '.join(setting.others))} would do as well"
        if setting.others
        else "  # inconclusive"
    )


def _source(spec: NcaSpec) -> str:
    return f"NcaSpec({', '.join(f'{key}={value!r}' for key, value in _fields(spec).items())})"


def _fields(spec: NcaSpec) -> dict[str, Any]:
    told = {field: getattr(spec, field) for field in SHOWN}
    return told | spec.model_dump(exclude_defaults=True, exclude={*SHOWN, "kind"})


def _quoted(text: str) -> str:
    """Text that can stand in a comment, a docstring or a string of double quotes."""
    return "".join(c if c.isprintable() and c not in '"\\' else " " for c in text)
