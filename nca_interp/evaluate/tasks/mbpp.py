"""MBPP: short Python programs from a sentence (Austin et al. 2021, arXiv 2108.07732). Right: its three tests pass."""

from __future__ import annotations

from collections.abc import Iterator

from nca_interp.evaluate.task import Benchmark, Item, Record, Wrong, text


def items(record: Record, file: str) -> Iterator[Item]:
    """`text` (or `prompt`) and `test_list`; `code` is what a context example shows."""
    tests = record.get("test_list")
    if not isinstance(tests, list) or not tests or not all(isinstance(t, str) for t in tests):
        raise Wrong("has no answer key: it needs 'test_list', a list of tests")
    asked = f"You are an expert Python programmer, and here is your task: {text(record, 'text', 'prompt')} Your code should pass these tests:"
    solution = record.get("code")
    shown = f"{solution}\n[DONE]" if isinstance(solution, str) else ""
    yield Item("\n\n".join([asked, "\n".join(tests)]) + "\n[BEGIN]\n", "\n".join(tests), shown=shown)


def program(item: Item, answer: str) -> str:
    """What was written, then its tests."""
    return f"{answer}\n{item.answer}\n"


TASK = Benchmark(
    "mbpp", "Short Python programs from one sentence and three tests (arXiv 2108.07732).", items,
    kind="code", read=lambda written: written, until=("[DONE]",), max_tokens=500, delimiter="", program=program,
    hub=("google-research-datasets/mbpp", "full", "test", "train"), sampling="paper",
)  # fmt: skip
