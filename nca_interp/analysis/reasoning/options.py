"""What is asked for with `--tasks`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from nca_interp.analysis.collection.collection import Collection
from nca_interp.base import Frozen, UserError
from nca_interp.evaluate.settings import Settings, check, load_all
from nca_interp.evaluate.sources import parse, read_examples


class Options(Frozen):
    """Options of the reasoning tasks."""

    tasks: str = ""
    """What is asked: gsm8k=FILE,humaneval=FILE,recall:2,...; any task of lm-evaluation-harness by name (docs/reasoning.md)."""
    examples: str = ""
    """Training split that context examples come from: gsm8k=FILE,..."""
    shots: int = Field(default=0, ge=0, le=64)
    """Context examples before each problem, from the training split only."""
    sampling: Literal["greedy", "paper", "paper-gsm8k", "published"] = "greedy"
    """greedy; paper: temperature 0.4, top-p 0.95; paper-gsm8k: 0.6, 1.0; published: of each task what the paper's code has for it."""
    samples: int = Field(default=1, ge=1, le=10_000)
    """Answers drawn to each problem (n of pass@k)."""
    k: tuple[int, ...] = (1,)
    """k of pass@k, with commas."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first so many problems of each task."""
    problems: int = Field(default=200, ge=1, le=100_000)
    """Problems of a generated task."""
    seed: int = Field(default=0, ge=0)
    """Of draws, context examples and generated problems; the same for every checkpoint."""
    batch: int = Field(default=64, ge=1, le=65_536)
    """Answers that are written at a time."""
    steps: Literal["last", "all"] = "last"
    """all: every checkpoint of a run, for a learning curve."""
    parts: int = Field(default=1, ge=1, le=1024)
    """Jobs that share the problems of one checkpoint."""
    run_generated_code: bool = False
    """Run programs that the model wrote, in a sandbox."""

    @field_validator("k", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return tuple(part for part in value.split(",") if part) if isinstance(value, str) else value


def settings(options: Options, collection: Collection | None = None, ready: bool = False) -> Settings:
    """The settings that these options mean for a collection; `ready`: checked before."""
    from nca_interp.machine import device_type

    given = collection.settings if collection is not None else None
    ours = collection is not None and collection.study is not None
    return Settings(
        parse(options.tasks, ready), read_examples(options.examples), options.shots, options.sampling, options.samples, options.k,
        options.limit, options.problems, options.seed, options.batch, options.run_generated_code,
        device=device_type() if ours else given.device if given else "cpu", dtype=given.dtype if given else "float32",
        tokenizer=Path(given.tokenizer) if given is not None and given.tokenizer else None,
    )  # fmt: skip


def wanted(collection: Collection, options: Options, named: bool) -> bool:
    """Whether tasks are named. UserError for tasks, files and settings that cannot be had, before anything is written."""
    if not options.tasks:
        if named:
            raise UserError("--reasoning: no task is named; give --tasks NAME[=FILE],... (docs/reasoning.md)")
        return False
    asked = settings(options, collection)
    check(asked)
    _speak(collection, asked)
    load_all(asked)
    return True


def _speak(collection: Collection, asked: Settings) -> None:
    """UserError for a checkpoint without a tokenizer."""
    from nca_interp.analysis.reasoning.study import applies
    from nca_interp.data.text.tokenizer import has_tokenizer

    for run in collection.runs if asked.tokenizer is None else ():
        if applies(run) and run.done and run.steps and not has_tokenizer(run.last):
            raise UserError(
                f"{run.last}: no tokenizer there, so it cannot read problems; give --tokenizer, or a model of text"
            )


def parts(options: Options) -> int:
    """Jobs that share one checkpoint."""
    return options.parts


def cost(run: Any, options: Options) -> float:
    """Rough seconds; only ratios count."""
    return float(options.samples * (len(run.steps) if options.steps == "all" else 1))


def switches(options: Options) -> Mapping[str, Any]:
    """What of the options decides numbers."""
    return options.model_dump(mode="json", exclude={"batch", "parts", "steps", "run_generated_code"})
