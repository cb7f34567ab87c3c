"""The arrows of docs/architecture.md: lower rooms never import higher ones, and the report knows only tables."""

import ast
from pathlib import Path

import pytest

FLOORS = """
errors
base
borders
readers console
metrics rows codes
data.rng data.compiled
data.controls data.puzzles
files data.specs
outputs safe_path head_rule
swap_policy claims checkpoint_spec graft stage_config
model_config
config
differences phase mediation_arms
overrides discover store run_dir machine signals arms
measurement beside
data.nca data.complexity
data.dyck
data.control_rows
data.text data.tokens data.sources data.sample
sweep
model
evaluate
train
analysis.cache analysis.spectra
analysis.stimuli
analysis.collection
analysis.start
analysis.verdicts
analysis.attention analysis.complexity
analysis.probing analysis.matching
analysis.causes analysis.inference analysis.retrieval
analysis.similarity
analysis.sweep analysis.readout analysis.dynamics analysis.prompts analysis.head_tokens analysis.validation
analysis.pairs analysis.survival analysis.mediation analysis.circuit_player
analysis.reasoning
analysis.elsewhere
analysis.tables
engine
report.charts
report
report.sections
report.pages
cli
__main__
"""
"""From the ground up. A room imports from floors below its own, and within itself; rooms of one floor do not know each other,
but for those of TOGETHER."""
TOGETHER = ({"data.nca", "data.complexity"}, {"data.text", "data.tokens", "data.sources", "data.sample"}, {"overrides", "discover", "store", "run_dir", "machine", "signals"})  # fmt: skip
REPORT = {"torch", "transformers", "transformer_lens", "nca_interp.train", "nca_interp.model", "nca_interp.analysis", "nca_interp.data", "nca_interp.engine"}  # fmt: skip
"""What report/ never imports."""
FLOOR = {room: number for number, line in enumerate(FLOORS.strip().splitlines()) for room in line.split()}


def room_of(module: str) -> str:
    parts = module.removeprefix("nca_interp.").split(".")
    return next((room for n in (2, 1) if (room := ".".join(parts[:n])) in FLOOR), "")


def imports(path: Path) -> list[str]:
    """Every module that a file imports, inside functions too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def files(root: Path) -> list[tuple[Path, str]]:
    paths = [p for p in sorted((root / "nca_interp").rglob("*.py")) if p != root / "nca_interp" / "__init__.py"]
    return [(p, ".".join(p.relative_to(root).with_suffix("").parts).removesuffix(".__init__")) for p in paths]


def test_every_module_has_a_floor(root):
    assert [m for path, m in files(root) if not room_of(m) and path.name != "__init__.py"] == []


def test_lower_rooms_never_import_higher_ones(root):
    wrong = []
    for path, module in files(root):
        own = room_of(module)
        for name in imports(path):
            if not name.startswith("nca_interp.") or not (other := room_of(name)) or other == own:
                continue
            if FLOOR[other] >= FLOOR[own] and not any({own, other} <= rooms for rooms in TOGETHER):
                wrong.append(f"{module} imports {name}")
    assert wrong == []


def test_the_report_reads_tables_only(root):
    for path, module in files(root):
        if module.startswith("nca_interp.report"):
            for name in imports(path):
                assert not any(name == part or name.startswith(part + ".") for part in REPORT), f"{module}: {name}"


@pytest.mark.parametrize(
    ("module", "name", "wrong"), [("analysis.stimuli.base", "nca_interp.analysis.causes.study", True), ("cli.app", "nca_interp.engine.plan", False)]
)  # fmt: skip
def test_the_rule_sees_an_arrow_that_points_up(module, name, wrong):
    assert (FLOOR[room_of(name)] >= FLOOR[room_of(module)]) is wrong
