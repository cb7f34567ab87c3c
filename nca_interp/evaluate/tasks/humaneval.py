"""HumanEval: a function from its signature and docstring (Chen et al. 2021, arXiv 2107.03374). Right: all its tests pass."""

from __future__ import annotations

from collections.abc import Iterator

from nca_interp.evaluate.task import Benchmark, Item, Record, text

STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""As the paper of HumanEval has them."""


def items(record: Record, file: str) -> Iterator[Item]:
    """`prompt`, `test` and `entry_point`."""
    yield Item(text(record, "prompt"), text(record, "test"), entry=text(record, "entry_point"))


def program(item: Item, answer: str) -> str:
    """The function, its tests and the call."""
    return f"{item.prompt}{answer}\n{item.answer}\ncheck({item.entry})\n"


TASK = Benchmark(
    "humaneval", "164 Python functions from signature and docstring; right where all tests pass (arXiv 2107.03374).", items,
    kind="code", read=lambda written: written, until=STOPS, max_tokens=500, delimiter="", program=program,
    hub=("openai/openai_humaneval", None, "test", None), sampling="paper",
)  # fmt: skip
