"""What of the causes is measured, and how exactly: the options of the measurement."""

from __future__ import annotations

import re
from typing import Any, Literal, get_args

from pydantic import Field, field_validator

from nca_interp.analysis.causes.ablation import Head, How
from nca_interp.base import Frozen
from nca_interp.config import suggest

Stage = Literal["attribution", "ablation", "knock_outs", "top_heads", "logit_lens", "patching", "edges", "weights"]
STAGES: tuple[str, ...] = get_args(Stage)
METRICS = {
    "repeated_tokens": ("repeated_token_loss", "repeated_token_gain"),
    "natural": ("own_loss", "in_context_learning"),
    "nca": ("nca_loss", "nca_patch_accuracy", "nca_cell_accuracy"),
}
"""Metrics by stimulus."""
EXACT_UP_TO = 128
"""Heads of a model up to which all of them are ablated, on whole stimuli; a larger one is measured in less."""
IN_LARGE = ("repeated_tokens", "natural")
"""Stimuli of a large model where no metric is chosen; its sets of heads are ablated on the first alone."""
SETS = 50
LARGE_SETS = 8
TOKENS, FEWEST = 2**10, 4
"""Tokens of a stimulus of a large model, and its fewest sequences."""


class CausesOptions(Frozen):
    """Options of the causes. Lists are words with commas between them."""

    stages: tuple[str, ...] = ()
    """Only these of attribution, ablation, knock_outs, top_heads, logit_lens, patching, edges, weights; empty: all (attribution
    only of models with more than 128 heads)."""
    metric: tuple[str, ...] = ()
    """Only these metrics, such as repeated_token_loss; empty: all, of more than 128 heads those of repeated tokens and natural text."""
    heads: Literal["auto", "all"] | tuple[str, ...] = "auto"
    """Heads that are ablated: all, or such as L10H7,L2H3. auto: all of up to 128, else those of `checked`."""
    checked: int = Field(default=12, ge=3)
    """Of a larger model, heads ablated on a stimulus: the first so many by attribution, and as many of the others at random."""
    probes: tuple[str, ...] = ()
    """Only the top heads of these probes; empty: of every probe that names a kind of head."""
    k: int | None = Field(default=None, ge=1)
    """Heads in a top set; null: 2 % of all, at least one."""
    sets: int | None = Field(default=None, ge=1)
    """Random sets beside each top set, where there are so many; null: 50, of more than 128 heads 8."""
    sequences: int | None = Field(default=None, ge=2)
    """Sequences of each stimulus; null: all, of more than 128 heads 1,024 tokens and at least 4."""
    how: How = "mean"
    """What replaces the output of a head that is ablated alone: mean, zero or resample."""

    @field_validator("stages", "metric", "heads", "probes", mode="before")
    @classmethod
    def _words(cls, given: Any) -> Any:
        if isinstance(given, str) and given not in ("auto", "all"):
            return tuple(word.strip() for word in given.split(",") if word.strip())
        return given

    @field_validator("stages")
    @classmethod
    def _stages(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        return _known(given, STAGES)

    @field_validator("metric")
    @classmethod
    def _metrics(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        return _known(given, [name for names in METRICS.values() for name in names])

    @field_validator("heads")
    @classmethod
    def _heads(cls, given: Any) -> Any:
        for name in given if isinstance(given, tuple) else ():
            if not re.fullmatch(r"L\d+H\d+", name):
                raise ValueError(f"{name!r}; legal: auto, all, or heads such as L10H7,L2H3")
        return given

    @property
    def named(self) -> list[Head]:
        """The heads that are named."""
        names = self.heads if isinstance(self.heads, tuple) else ()
        return [(int(layer), int(head)) for layer, head in (name[1:].split("H") for name in names)]


def _known(given: tuple[str, ...], legal: Any) -> tuple[str, ...]:
    for name in given:
        if name not in legal:
            raise ValueError(f"{name!r} is unknown{suggest(name, legal)}")
    return given


class Scope:
    """What is measured of a model with so many heads."""

    def __init__(self, options: CausesOptions, n_heads: int) -> None:
        self.options, self.large = options, n_heads > EXACT_UP_TO
        named = isinstance(options.heads, tuple)
        self.every = options.heads == "all" or (options.heads == "auto" and not self.large)
        """Whether every head is ablated alone."""
        self.ranked = self.large and not self.every and not named
        """Whether attribution says which."""
        self.sets = options.sets or (LARGE_SETS if self.large else SETS)

    def has(self, stage: str) -> bool:
        """Whether a stage is measured."""
        if not self.options.stages:
            return self.large if stage == "attribution" else True
        return stage in self.options.stages

    def stimuli(self, stage: str = "") -> tuple[str, ...]:
        """Stimuli of a stage."""
        if self.options.metric:
            return tuple(name for name, metrics in METRICS.items() if set(metrics) & set(self.options.metric))
        if not self.large:
            return tuple(METRICS)
        return IN_LARGE[:1] if stage == "top_heads" else IN_LARGE

    def sequences(self, length: int) -> int | None:
        """Sequences of a stimulus of that length; None: all."""
        return self.options.sequences or (max(FEWEST, TOKENS // length) if self.large else None)
