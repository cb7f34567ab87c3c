"""Which heads of a pre-pre-trained model are meant, by a rule that is fixed before it is trained (docs/mediation.md).

A rule names a probe and how many of its heads; which heads these are is decided once, at the end of the synthetic stage, and kept
beside that run. What happens in language never enters.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from nca_interp.base import Frozen, digest

FOLDER = "heads"
"""Folder of a run in which the records of its rules lie."""
TOP_SHARE = 0.02
"""Share of all heads where a rule says neither `k` nor `share`."""


class HeadRule(Frozen):
    """The top heads of a probe at the end of pre-pre-training, or a random set of the same layers that they are held against."""

    probe: str = Field(min_length=1, pattern=r"^[A-Za-z0-9_-]+(\+[A-Za-z0-9_-]+)*$")
    """Probe that names a kind of head: induction, previous_token, nca_stencil, nca_induction, dyck_opener, or one of your own; several
    with + between them, such as induction+previous_token, of each of which the top heads are taken together."""
    k: int | None = Field(default=None, ge=1)
    """Heads of each probe, at most; null: `share` of all."""
    share: float | None = Field(default=None, gt=0, lt=1)
    """Share of all heads for each probe, rounded up; null: 2 % where `k` is null too."""
    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Layers that they may be in; null: all."""
    otherwise: Literal["leave_out", "top"] = "leave_out"
    """Where a probe has no head above the level of random models: leave_out: the arm is not trained, and the report says why; top: the top
    heads are taken all the same, and marked."""
    sets: int = Field(default=4, ge=1, le=64)
    """Matched random sets that are drawn for trainings."""
    random: int | None = Field(default=None, ge=1)
    """Number of the matched random set that is meant, from 1; null: the heads of the rule themselves."""

    @model_validator(mode="after")
    def _agrees(self) -> HeadRule:
        if self.k is not None and self.share is not None:
            raise ValueError(f"k: {self.k} and share {self.share}; legal: one of the two")
        if self.layers is not None and (not self.layers or len(set(self.layers)) < len(self.layers)):
            raise ValueError(f"layers: {list(self.layers)}; legal: null, or each layer once")
        if self.random is not None and self.random > self.sets:
            raise ValueError(f"random: {self.random} of {self.sets} sets; legal: 1 to {self.sets}")
        return self

    @property
    def probes(self) -> tuple[str, ...]:
        """Its probes, each once."""
        return tuple(dict.fromkeys(self.probe.split("+")))

    def size(self, n_heads: int) -> int:
        """How many heads of `n_heads` in all it takes at most of each probe."""
        return self.k if self.k is not None else max(1, math.ceil((self.share or TOP_SHARE) * n_heads))

    @property
    def itself(self) -> HeadRule:
        """The rule whose heads a random set is matched to; the rule itself where it is no random set."""
        return self.model_copy(update={"random": None})

    @property
    def key(self) -> str:
        """Name of its record; the same for all its random sets."""
        return f"{self.probe}-{digest(self.itself, 8)}"

    @property
    def file(self) -> str:
        """Where the heads stand, relative to the study; `{parent}` is the id of the pre-pre-training."""
        name = self.key if self.random is None else f"{self.key}.random-{self.random}"
        return f"runs/{{parent}}/{FOLDER}/{name}.json"

    def words(self) -> str:
        """It in words."""
        probes = " and ".join(self.probes)
        own = f"top {self.k}" if self.k is not None else f"top {100 * (self.share or TOP_SHARE):g} % of heads"
        where = "" if self.layers is None else f" of layers {', '.join(map(str, self.layers))}"
        of = f"{own} by {probes}{where}"
        return of if self.random is None else f"random set {self.random} matched to the {of}"


def check_rule(where: str, rule: HeadRule, model: Any) -> None:
    """ValueError where a network `model` (a ModelConfig) has not the layers or the heads that a rule asks for."""
    layers = rule.layers if rule.layers is not None else range(model.n_layers)
    if beyond := [layer for layer in layers if layer >= model.n_layers]:
        raise ValueError(f"{where}.layers: {beyond[0]}; legal: 0 to {model.n_layers - 1}")
    there, size = len(layers) * model.n_heads, rule.size(model.n_layers * model.n_heads)
    if size >= there:
        raise ValueError(f"{where}.k: {size} of {there} heads leave none to compare with; legal: 1 to {there - 1}")
