"""The decorator that makes a function a probe: one number for every head, or for the model, on one stimulus."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from nca_interp.analysis.stimuli.base import Batch, Stimulus
from nca_interp.base import UserError
from nca_interp.discover import define

Reads = Literal["attention", "heads", "loss", "stimulus"]
READS: tuple[Reads, ...] = ("attention", "heads", "loss", "stimulus")

TIMES_CHANCE = 2.0
"""A head of a kind scores at least so many times what uniform attention does, which passes some thresholds by itself. Where chance is 0.5 or
more, no share of attention can: such a stimulus tells nothing of the probe's kind."""
TOP_SHARE = 0.02
"""Share of all heads that are a probe's top heads (at least one head)."""


@dataclass(frozen=True)
class Probe:
    """A measurement: what it reads, what the function returns, unit, range and chance level.

    reads="attention": function(attention: Attention) -> [batch, head], called once a layer; chance is what it returns
    for uniform attention to the keys that the layer lets a query see. reads="heads": the same with `heads.Heads`, which
    also knows what each head writes to the logits. reads="loss": function(nll [batch, position], stimulus: Batch) ->
    [batch], nll[b, i] in nats of target i. reads="stimulus": function(stimulus: Batch) -> [batch], what the stimulus
    holds whatever the model.
    """

    name: str
    function: Callable[..., Any]
    stimulus: Stimulus
    reads: Reads
    unit: str
    low: float | None
    high: float | None
    chance: float | Callable[[Batch], float] | None
    hit: float | None
    doc: str

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        """Docstring of the file that defines it: formula, source, range, chance."""
        return self.doc

    def describe(self) -> dict[str, Any]:
        """Name, definition, unit and range for listings and reports."""
        return {
            "name": self.name, "doc": self.doc, "unit": self.unit, "low": self.low, "high": self.high,
            "reads": self.reads, "stimulus": self.stimulus.args, "hit": self.hit,
        }  # fmt: skip


def probe(
    *,
    stimulus: Stimulus,
    unit: str,
    reads: Reads = "attention",
    low: float | None = None,
    high: float | None = None,
    chance: float | Callable[[Batch], float] | None = None,
    hit: float | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a function of a definition file as a probe of the same name; the function itself is returned unchanged.

    `low` and `high`: legal range of the result (None: unbounded), checked on every result. `chance`: level without the
    measured ability, for `reads="loss"` and `"heads"`, a number or a function of the stimulus; attention probes need
    none, theirs is measured on uniform attention. `hit`: a head counts as one of the kind above this score, if it is
    also above TIMES_CHANCE times chance and the 95th percentile of randomly initialised models (None: the probe names no
    kind of head).
    """
    if reads not in READS:
        raise UserError(f"reads: {reads!r}; legal: {', '.join(READS)}")
    if not isinstance(stimulus, Stimulus):
        raise UserError(
            f"stimulus: {stimulus!r}; legal: repeated_tokens(...), natural(...), nca_frames(...), dyck(...)"
        )
    for name, value in {"low": low, "high": high, "hit": hit, "chance": None if callable(chance) else chance}.items():
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value)
        ):
            raise UserError(f"{name}: {value!r}; legal: a finite number, or None")
    if low is not None and high is not None and low > high:
        raise UserError(f"low: {low!r}, which is above high={high!r}")
    if not isinstance(unit, str):
        raise UserError(f'unit: {unit!r}; legal: a text, e.g. "attention mass"')
    if reads == "attention" and chance is not None:
        raise UserError("chance: attention probes have the chance level of uniform attention; legal: None")

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        doc = (function.__globals__.get("__doc__") or function.__doc__ or "").strip()
        define(
            "probes",
            function.__name__,
            Probe(function.__name__, function, stimulus, reads, unit, low, high, chance, hit, doc),
        )
        return function

    return enter
