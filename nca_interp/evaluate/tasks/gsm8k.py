"""GSM8K: grade-school word problems (Cobbe et al. 2021, arXiv 2110.14168). Key: the number after the last "####"."""

from __future__ import annotations

from collections.abc import Iterator

from nca_interp.data.text.qa import MARK, qa_prompt
from nca_interp.evaluate.answers import number_of, same_number
from nca_interp.evaluate.task import Benchmark, Item, Record, Wrong, text


def items(record: Record, file: str) -> Iterator[Item]:
    """`question` and `answer`, the key after the mark."""
    question, answer = text(record, "question"), text(record, "answer")
    key = answer.rpartition(MARK)[2].strip() if MARK in answer else ""
    if not key:
        raise Wrong(f'has no answer key: nothing stands after the last "{MARK}" of its answer')
    yield Item(qa_prompt(question.strip()), key, shown=answer.strip())


TASK = Benchmark(
    "gsm8k", "Word problems in words and numbers, 1 to 8 steps; the number after the last #### (arXiv 2110.14168).", items,
    read=number_of, same=same_number, until=("\nQuestion:", "Question:"), max_tokens=250,
    hub=("openai/gsm8k", "main", "test", "train"), sampling="paper-gsm8k",
)  # fmt: skip
