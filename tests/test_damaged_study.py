"""A fuzzer: one file of a finished study is damaged; no command shows a traceback, or another number without a word."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
import torch

from nca_interp.cli import app as cli
from nca_interp.engine import runner, worker
from nca_interp.store import StudyDir

SEED, HARMS_OF_A_KIND, SKIPPED = 20, 1, 0.75
"""Of the cases of `analyze`, which takes a second each, this share is left out."""
RECIPE = '''
"""All stages and kinds of token files, at the smallest size."""
from nca_interp.config import Domain, ModelConfig, Regime, StageConfig, Study, paired_seeds
from nca_interp.data.specs import ArithmeticSpec, NcaSpec, QaSpec, TextSpec, TokenizerSpec
from nca_interp.discover import run

@run
def tiny() -> Study:
    """Tiny."""
    stage = StageConfig(steps=2, batch_size=2, lr=1e-3, eval_every=2, checkpoint_every=2, checkpoints="ends")
    qa = QaSpec(n_train=16, n_val=4, n_test=4, arithmetic=ArithmeticSpec(digits=1, max_steps=1))
    text = TextSpec(source="arithmetic:", tokenizer=TokenizerSpec(vocab_size=300), max_bytes=60_000)
    return Study(
        name="tiny", title="tiny", seeds=paired_seeds(1), ppt=stage, pt=stage, ft=stage, val_rows=4, precision="fp32",
        model=ModelConfig(n_layers=1, d_model=16, n_heads=1, d_mlp=32, n_ctx=128),
        regimes=(
            Regime(name="scratch", label="scratch"),
            Regime(name="nca", label="NCA", source=NcaSpec(grid=8, n_states=2, band=None), ft=False),
        ),
        domains=(Domain(name="d", label="d", source=text, qa=qa),),
    )
'''
REPORT = '''
"""Everything that a report may read, as numbers and without pictures."""
from nca_interp.discover import report
from nca_interp.report.page import Page, Section

@report
def everything(tables):
    """Everything."""
    record = {name: frame.to_csv() for name, frame in tables._frames.items()}
    record |= {"study": tables.study, "docs": tables.probe_docs, "trajectory": tables.trajectory}
    record["exhibits"] = [
        [e.entry, e.thumbnails.tolist(), [p.tolist() for p in e.patterns.values()]] for e in tables.exhibits
    ]
    sections = (Section("all", "All", ()),)
    return Page(title="", subtitle="", facts=(), cautions=(), legend=(), sections=sections, record=record)
'''
COMMANDS: dict[str, tuple[str, ...]] = {
    "report": ("report", "s", "--name", "everything"),
    "analyze": ("analyze", "s", "--random", "1"),
    "watch": ("watch", "s", "--json"),
    "train": ("train", "tiny", "--out", "s"),
}


class Result(NamedTuple):
    """What a command did."""

    code: int
    said: str
    made: Any
    """What it shows or writes: the numbers of the report, the tables, the board."""


class Pipe:
    """What a worker says."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    def send_bytes(self, message: bytes) -> None:
        kind, _, text = message.decode().partition(":")
        if kind == "error":
            self.errors.append(text)


def in_this_process(study: StudyDir, plan: Any, *, engine: Any, **options: Any) -> runner.Outcome:
    """`runner.run_plan` as workers do it, one job after the other and without processes, which take seconds."""
    outcome = runner.Outcome()
    for job in plan.jobs:
        if any(outcome.states.get(need, "done") != "done" for need in job.needs):
            outcome.states[job.id] = "blocked"
            continue
        pipe = Pipe()
        code = 0
        if not runner.is_done(study, job):
            code = worker.guarded(study.path, job, engine.asked.probes, pipe)  # type: ignore[arg-type]
        outcome.states[job.id] = "failed" if code else "done"
        if code:
            outcome.messages[job.id] = "\n".join(pipe.errors)
            outcome.usage_error |= code == worker.EXIT_USAGE
    return outcome


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with a finished study `s`, its recipe and a report of all its numbers."""
    folder = tmp_path_factory.mktemp("damage")
    for name, text in {"runs/tiny.py": RECIPE, "reports/everything.py": REPORT}.items():
        (folder / name).parent.mkdir()
        (folder / name).write_text(text)
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    patch.setattr(runner, "run_plan", in_this_process)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield folder
    torch.set_num_threads(threads)
    patch.undo()


def call(capsys: Any, *arguments: str) -> Result:
    """A command in this process: its exit code, all it said, and what it made of `s`."""
    code = leave(arguments)
    out, err = capsys.readouterr()
    made = {"report": numbers, "analyze": tables, "watch": lambda: out}.get(arguments[0], lambda: None)()
    return Result(code, out + err, made)


def leave(arguments: Sequence[str]) -> int:
    """Exit code of a command."""
    before, sys.argv = sys.argv, ["nca-interp", *arguments]
    try:
        return cli.call([*arguments])
    except SystemExit as left:
        return int(left.code or 0)
    finally:
        sys.argv = before


def numbers() -> Any:
    """What the report says."""
    path = Path("s/report.json")
    return json.loads(path.read_text()) if path.is_file() else None


def tables() -> dict[str, pd.DataFrame]:
    """The tables of the study."""
    return {path.name: pd.read_csv(path) for path in sorted(Path("s/tables").glob("*.csv"))}


def equal(one: Any, other: Any) -> bool:
    """Whether two commands made the same; what was measured again may differ in the last digits of single precision."""
    if not isinstance(one, dict) or not one or not isinstance(next(iter(one.values())), pd.DataFrame):
        return bool(one == other)
    if one.keys() != other.keys():
        return False
    try:
        for name in one:
            pd.testing.assert_frame_equal(one[name], other[name], rtol=1e-5, atol=1e-6)
    except AssertionError:
        return False
    return True


def harms(path: Path, draw: random.Random) -> Iterator[tuple[str, bytes | None]]:
    """Ways to damage a file: (name, its content then; None: it is lost)."""
    data = path.read_bytes()
    yield "lost", None
    if not data:
        return
    at = draw.randrange(len(data))
    yield "empty", b""
    yield "cut", data[:at]
    yield "flipped", data[:at] + bytes([data[at] ^ 1 << draw.randrange(7)]) + data[at + 1 :]
    if digits := [i for i, byte in enumerate(data) if byte in b"12345678"]:
        at = draw.choice(digits)
        yield "another digit", data[:at] + bytes([data[at] + 1]) + data[at + 1 :]
    if path.suffix == ".csv":
        yield "header only", data[: data.index(b"\n") + 1]
    if path.suffix == ".json":
        yield "a list", b"[]"
        yield "a number", b"7"
        value = json.loads(data)
        for key in draw.sample(sorted(value), min(2, len(value))) if isinstance(value, dict) else ():
            yield f"{key} of another type", json.dumps(value | {key: [None]}).encode()
            yield f"{key} lost", json.dumps({k: v for k, v in value.items() if k != key}).encode()


def readers_of(path: Path) -> tuple[str, ...]:
    """Commands that read a file of the study."""
    known: dict[str, tuple[str, ...]] = {
        "tables": ("report",), "nulls": ("analyze",), "tokens": ("train", "analyze"), "runs": ("watch", "train", "analyze"),
        "study.json": tuple(COMMANDS),
    }  # fmt: skip
    return known.get(path.parts[1], ())


def kind_of(path: Path) -> str:
    """Files of one kind are read by the same code."""
    parts = ["*" if any(c.isdigit() for c in part) else part for part in path.parts[:-1]]
    name = path.name if not any(c.isdigit() for c in path.stem) else f"*{path.suffix}"
    return "/".join([*parts, name])


def cases(study: Path, draw: random.Random, of_a_kind: int) -> Iterator[tuple[Path, str, bytes | None]]:
    """(file, harm, its content then): some harms of one file of each kind."""
    files: dict[str, list[Path]] = {}
    for path in sorted(p for p in study.rglob("*") if p.is_file() and not p.name.endswith(".lock")):
        files.setdefault(kind_of(path.relative_to(study)), []).append(path)
    for paths in files.values():
        path = draw.choice(paths)
        found = list(harms(path, draw))
        for harm, data in draw.sample(found, min(of_a_kind, len(found))):
            yield path, harm, data


@pytest.fixture(scope="module")
def whole(here: Path) -> Path:
    """The finished study, analysed and reported by the real commands; every test works on a copy of it."""
    for command in (COMMANDS["train"], (*COMMANDS["analyze"], "--compare"), COMMANDS["report"]):
        assert leave(command) == 0
    return Path("s").rename(here / "whole")


def undamaged(whole: Path, capsys: Any) -> dict[str, Result]:
    """What each command gives of the study as it is."""
    copy(whole)
    return {name: call(capsys, *command) for name, command in COMMANDS.items()}


def copy(whole: Path) -> None:
    """A fresh `s`."""
    shutil.rmtree("s", ignore_errors=True)
    shutil.copytree(whole, "s")


def test_no_damage_shows_a_traceback_or_gives_another_number_without_a_word(whole: Path, capsys: Any):
    wanted, draw = undamaged(whole, capsys), random.Random(SEED)
    assert {name: result.code for name, result in wanted.items()} == dict.fromkeys(COMMANDS, 0)
    copy(whole)
    seen: dict[str, int] = dict.fromkeys(COMMANDS, 0)
    for path, harm, data in list(cases(Path("s"), draw, HARMS_OF_A_KIND)):
        for name in readers_of(path):
            if name == "analyze" and draw.random() < SKIPPED:
                continue
            copy(whole)
            path.unlink() if data is None else path.write_bytes(data)
            found = call(capsys, *COMMANDS[name])
            told = f"{name} with {path} {harm}: exit code {found.code}: {found.said}"
            assert found.code in (0, 1, 2), told
            assert "Traceback" not in found.said, told
            assert "internal error" not in found.said, told
            if found.code or not equal(found.made, wanted[name].made):
                seen[name] += 1
                assert path.name in found.said or f"{path.parent}" in found.said, told
            if found.code == 0 and name in ("report", "analyze"):
                assert equal(found.made, wanted[name].made), told
    assert min(seen.values()) > 2, seen
