"""Ask the checkpoints of a run, keep a row a problem, and write what other tools read: results, samples, a model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from nca_interp.analysis.cache import code_hash, keep, kept
from nca_interp.analysis.collection.run import Run
from nca_interp.analysis.reasoning.options import settings, switches
from nca_interp.analysis.stimuli.source import weights_sha256
from nca_interp.base import UserError, digest
from nca_interp.data.specs import SYNTHETIC_KINDS
from nca_interp.evaluate.cards import write_card, write_results
from nca_interp.evaluate.run import Scored, evaluate
from nca_interp.evaluate.sources import content
from nca_interp.files import held
from nca_interp.measurement import Asked
from nca_interp.readers import read_object
from nca_interp.store import STEP

NAME = "reasoning"
INTEGERS = ("number", "answered", "correct")
CODE = tuple(
    f"../evaluate/{name}.py"
    for name in (
        "answers",
        "definitions",
        "generate",
        "harness",
        "run",
        "sampling",
        "scores",
        "settings",
        "sources",
        "task",
    )
)


def applies(run: Run) -> bool:
    """Whether a run speaks text: pre-pre-training on synthetic tokens has no words to be asked in."""
    return run.stage != "ppt" or run.source.get("kind") not in SYNTHETIC_KINDS


def steps_of(run: Run, options: Any) -> list[int]:
    """Steps that are asked."""
    return run.steps if options.steps == "all" else [end_of(run)]


def end_of(run: Run) -> int:
    """The checkpoint that stands for a run: the last, or of a fine-tuned one that which its validation problems chose."""
    if run.stage == "ft" and run.trained is not None and run.trained.dir.result.is_file():
        step: Any = read_object(run.trained.dir.result).get("step")
        if step in run.steps:
            return int(step)
    return run.steps[-1]


def answers_folder(run: Run, step: int) -> Path:
    """Where answers of one checkpoint, results and its card lie."""
    return run.folder / NAME / f"{STEP}{step:08d}"


def measure(run: Run, asked: Asked) -> list[str]:
    """Ask each checkpoint unless that is up to date; answers that are known are not asked for again."""
    for step in steps_of(run, asked.options):
        if up_to_date(run, step, asked) is not None:
            continue
        folder = answers_folder(run, step)
        lock = folder / f".{'all' if asked.part is None else asked.part[0]}.lock"
        with held(lock, f"{folder}: another process answers this part".__str__):
            given = settings(asked.options, asked.collection, ready=True)
            found = evaluate(
                run.checkpoint(step), weights_sha256(run.checkpoint(step)), folder, given, asked.part, asked.say
            )
        if found is None:
            continue
        frame = pd.DataFrame(found.scored, columns=Scored._fields)
        frame.attrs = {
            "notes": found.notes,
            "foreign": _foreign(found.results, set(frame.task)),
            "k": list(asked.options.k),
            "samples": asked.options.samples,
        }
        write_results(folder, found.results)
        write_card(folder, run.label or run.id, frame, list(asked.options.k))
        keep(run.kept(NAME, step), frame, made_from(run, step, asked))
    return []


def _foreign(results: dict[str, Any], ours: set[str]) -> list[list[Any]]:
    """Of the harness's own tasks: task, metric, value, standard error, problems."""
    from nca_interp.evaluate.definitions import SEPARATOR

    names = {task.replace(":", "-") for task in ours}
    found = []
    for task, values in results.get("results", {}).items():
        if task.partition(SEPARATOR)[0] in names:
            continue
        for metric, value in values.items():
            name, comma, _ = metric.partition(",")
            if comma and isinstance(value, int | float) and not name.endswith("_stderr"):
                found.append([task, metric, float(value), int(values.get("sample_len", 0))])
    return found


def made_from(run: Run, step: int, asked: Asked) -> dict[str, Any]:
    """What decides the numbers: weights, code, options, files of the tasks."""
    options = asked.options
    given = settings(options, asked.collection, ready=True)
    tasks = Path(__file__).parents[2] / "evaluate" / "tasks"
    return {
        "checkpoint": weights_sha256(run.checkpoint(step)),
        "code": code_hash((*CODE, *(f"../evaluate/tasks/{p.name}" for p in sorted(tasks.glob("*.py"))))),
        "options": dict(switches(options)), "files": digest(content(list(given.wanted), given.examples)),
        **asked.collection.settings.decide(),
    }  # fmt: skip


def up_to_date(run: Run, step: int, asked: Asked) -> pd.DataFrame | None:
    """Kept rows that are those of what is asked."""
    return read(run, step, made_from(run, step, asked))


def read(run: Run, step: int, made: dict[str, Any]) -> pd.DataFrame | None:
    """Kept rows that were made from this."""
    return kept(run.kept(NAME, step), made, numbers=("chance",), integers=INTEGERS)


def last_kept(run: Run, step: int) -> pd.DataFrame | None:
    """Kept rows of one checkpoint, whatever was asked, as long as it is of these weights."""
    path = run.kept(NAME, step)
    if not path.is_file():
        return None
    try:
        said: dict[str, Any] = read_object(path.with_suffix(".json"), made_from=dict)["made_from"]
    except UserError:
        return None
    return read(run, step, said) if said.get("checkpoint") == weights_sha256(run.checkpoint(step)) else None
