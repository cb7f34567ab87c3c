"""How answers are drawn: greedily, or by one of the two settings that arXiv 2603.10055 documents, by name."""

from __future__ import annotations

from typing import Literal, NamedTuple

Name = Literal["greedy", "paper", "paper-gsm8k"]


class Sampling(NamedTuple):
    """Temperature and nucleus of a draw."""

    temperature: float
    """Divides the logits; 0: the likeliest token."""
    top_p: float
    """The fewest tokens whose probabilities add up to this much are drawn from (Holtzman et al. 2020, arXiv 1904.09751)."""


SAMPLINGS: dict[str, Sampling] = {
    "greedy": Sampling(0.0, 1.0),
    "paper": Sampling(0.4, 0.95),
    "paper-gsm8k": Sampling(0.6, 1.0),
}
"""paper: what the README and the launchers of HumanEval and BIG-bench Lite say; paper-gsm8k: the launcher of GSM8K. They conflict."""
