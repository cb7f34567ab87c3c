"""Minimal pairs: which of two sentences is likelier (BLiMP, Warstadt et al. 2020, arXiv 1912.00582). Chance 1/2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nca_interp.evaluate.task import Benchmark, Item, Record, text


def items(record: Record, file: str) -> Iterator[Item]:
    """`sentence_good` and `sentence_bad`; each phenomenon (`UID`, else the file) counts once in the mean."""
    good, bad = text(record, "sentence_good"), text(record, "sentence_bad")
    yield Item("", good, (good, bad), 0.5, part=str(record.get("UID") or Path(file).name.split(".")[0]))


TASK = Benchmark(
    "pairs",
    "Two sentences that differ in one thing: is the grammatical one likelier (BLiMP, arXiv 1912.00582)?",
    items,
    kind="choose",
    delimiter="",
)
