"""BIG-bench Lite and Hard: many tasks of one form (Srivastava et al. 2022, arXiv 2206.04615; Suzgun et al. 2022, arXiv 2210.09261).

`bbl`: an answer is written, right where it is a key but for case (as arXiv 2603.10055 scores it); chance 1 / choices where the
task has choices, else 0. `bbl-choice`: the likeliest of the choices; examples without choices are left out. `bbh`: written answers of
the hard tasks. Each task counts once in the mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nca_interp.evaluate.task import Benchmark, Item, Record, Wrong, text


def _keys(record: Record) -> tuple[list[str], list[str]]:
    """Right answers, and all choices."""
    scores, target = record.get("target_scores"), record.get("target")
    if isinstance(scores, dict) and scores:
        known = {str(c).strip(): s for c, s in scores.items() if s is not None}
        best = max(known.values())
        if best <= 0:
            raise Wrong("has no answer key: no choice of 'target_scores' is right")
        return [c for c, s in known.items() if s == best], list(known)
    if isinstance(target, str) and target.strip():
        return [target.strip()], []
    if isinstance(target, list) and target and all(isinstance(t, str) for t in target):
        return [t.strip() for t in target], []
    raise Wrong("has no answer key: it needs 'target' or 'target_scores'")


def _examples(record: Record) -> Iterator[Record]:
    """A file of BIG-bench holds all examples of a task in one object."""
    inner: Any = record.get("examples")
    if not isinstance(inner, list):
        yield record
        return
    outer = {k: v for k, v in record.items() if k != "examples"}
    task = outer.pop("name", None)
    yield from ({**({"task": task} if task else {}), **outer, **one} for one in inner if isinstance(one, dict))


def _asked(record: Record, file: str, choices: list[str]) -> tuple[str, str]:
    """Prompt, with the choices before the answer, and task."""
    given = {n: str(record.get(n) or "") for n in ("task_prefix", "input_prefix", "output_prefix")}
    prefix, output = given["input_prefix"] or "\nQ: ", given["output_prefix"] or "\nA: "
    listed = "".join(f"\n  choice: {c}" for c in choices)
    if listed and not output.startswith("\n"):
        output = f"\n{output.strip()}" if output.strip() else "\nA: "
    prompt = f"{given['task_prefix']}{prefix}{text(record, 'input')}{listed}{output}"
    return prompt.strip("\n").rstrip(" "), str(record.get("task") or Path(file).name.split(".")[0])


def written(record: Record, file: str) -> Iterator[Item]:
    """Answers that are written."""
    for one in _examples(record):
        right, choices = _keys(one)
        prompt, task = _asked(one, file, choices)
        chance = len(right) / len(choices) if choices else 0.0
        yield Item(prompt, "\x1f".join(right), chance=min(chance, 0.999), part=task, shown=right[0])


def chosen(record: Record, file: str) -> Iterator[Item]:
    """Choices that are compared."""
    for one in _examples(record):
        right, choices = _keys(one)
        if len(choices) > len(right):
            prompt, task = _asked(one, file, [])
            yield Item(prompt, right[0], tuple(choices), len(right) / len(choices), part=task)


def same(answer: str, key: str) -> bool:
    """Exact but for case, any of the keys."""
    return answer.lower() in {k.lower() for k in key.split("\x1f")}


def first_line(answer: str) -> str | None:
    """What is written up to the end of its line."""
    lines = answer.strip().splitlines()
    return lines[0].strip() if lines else None


TASK = (
    Benchmark(
        "bbl", "BIG-bench Lite, 24 tasks, written answers, exact but for case (arXiv 2206.04615).", written,
        read=first_line, same=same, until=("\n",), max_tokens=35, floor=True,
    ),
    Benchmark(
        "bbl-choice", "BIG-bench Lite, the tasks with choices, by log-likelihood (arXiv 2206.04615).", chosen, kind="choose", floor=True,
    ),
    Benchmark(
        "bbh", "BIG-bench Hard, written answers without reasoning, exact but for case (arXiv 2210.09261).", written,
        read=first_line, same=same, until=("\n",), max_tokens=35,
    ),
)  # fmt: skip
