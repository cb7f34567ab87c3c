"""Run probes on one opened model: group them by stimulus, pass each stimulus once, check what every probe returns."""

from __future__ import annotations

import math
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F

from nca_interp.analysis.attention import FAST, Attention, register
from nca_interp.analysis.circuits import Bridges, Heads
from nca_interp.analysis.probe import Probe
from nca_interp.analysis.stimuli import Batch, NotApplicable, Stimulus, Subject
from nca_interp.base import UserError
from nca_interp.discover import Definition

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION_CODE = ("attention.py", "circuits.py", "geometry.py", "measure.py", "stimuli.py", "subject.py")
"""Files of this package that decide a number."""
LOGIT_ELEMENTS = 2**25
"""Logits held at a time."""
TOLERANCE = 1e-4
"""A result may leave its declared range by this much (rounding)."""


class Measured(NamedTuple):
    """Results on one checkpoint."""

    rows: list[dict[str, Any]]
    """probe, layer, head, value, chance, sd, unit, n."""
    problems: dict[str, str]
    """Probe -> what went wrong, with file and line."""
    skipped: dict[str, str]
    """Probe -> why it does not apply."""


class Measurer:
    """A set of probes; keeps stimuli and chance levels, which do not depend on the weights, between checkpoints."""

    def __init__(self, definitions: dict[str, Definition]) -> None:
        self.definitions = definitions
        self.probes: dict[str, Probe] = {name: d.value for name, d in definitions.items()}
        self.hashes = {name: d.sha256 for name, d in definitions.items()}
        self._batches: dict[tuple[Any, ...], Batch | str] = {}
        self._chances: dict[tuple[Any, ...], torch.Tensor] = {}
        self._bridges = Bridges()

    def only(self, names: set[str]) -> Measurer:
        """A measurer of some of the probes that shares what this one keeps."""
        if names == set(self.hashes):
            return self
        part = Measurer({name: d for name, d in self.definitions.items() if name in names})
        part._batches, part._chances, part._bridges = self._batches, self._chances, self._bridges
        return part

    def open(self, directory: Path) -> PreTrainedModel:
        """The model with the attention function that hands out scores, where its class allows another attention."""
        from nca_interp.model.checkpoint import load_model

        register()
        try:
            return load_model(directory, attn=FAST)
        except UserError as error:
            if "attn_implementation" not in str(error) and "attention" not in str(error).lower():
                raise
            return load_model(directory, attn="eager")

    def measure(self, model: PreTrainedModel, subject: Subject) -> Measured:
        """All probes on one model."""
        result = Measured([], {}, {})
        by_stimulus: dict[Stimulus, dict[str, Probe]] = {}
        for name, probe in self.probes.items():
            by_stimulus.setdefault(probe.stimulus, {})[name] = probe
        wrapped: list[tuple[dict[str, Probe], Batch]] = []
        for stimulus, probes in by_stimulus.items():
            batch = self._build(stimulus, subject)
            if isinstance(batch, str):
                result.skipped.update(dict.fromkeys(probes, batch))
                continue
            key = (stimulus, *_key(subject))
            self._pass(model, batch, {n: p for n, p in probes.items() if p.reads != "heads"}, key, result)
            if heads := {n: p for n, p in probes.items() if p.reads == "heads"}:
                wrapped.append((heads, batch))
        if wrapped:
            self._heads(model, subject, wrapped, result)
        result.rows.sort(key=lambda row: list(self.probes).index(row["probe"]))
        return result

    def _build(self, stimulus: Stimulus, subject: Subject) -> Batch | str:
        key = (stimulus, *_key(subject))
        if key not in self._batches:
            try:
                self._batches[key] = stimulus.build(subject)
            except NotApplicable as reason:
                self._batches[key] = str(reason)
        return self._batches[key]

    def _pass(
        self, model: PreTrainedModel, batch: Batch, probes: dict[str, Probe], key: tuple[Any, ...], result: Measured
    ) -> None:
        """One forward pass of a stimulus (in slices where its logits would not fit) for attention and loss probes."""
        attention = {n: p for n, p in probes.items() if p.reads == "attention"}
        loss = {n: p for n, p in probes.items() if p.reads == "loss"}
        chances = {name: c for name in attention if (c := self._chance(name, batch, key, result)) is not None}
        if not (chances or loss):
            return
        collected: dict[tuple[str, int], list[torch.Tensor]] = {}
        nlls = []
        for part in _slices(batch, subject_vocab(model)):
            wanted = {n: p for n, p in attention.items() if n in chances and n not in result.problems | result.skipped}

            def sink(
                layer: int, query: torch.Tensor, key: torch.Tensor, lse: torch.Tensor, scale: float,
                part: Batch = part, wanted: dict[str, Probe] = wanted,
            ) -> None:  # fmt: skip
                view = Attention(query, key, lse, scale, part, layer)
                for name, probe in wanted.items():
                    if name not in result.problems:
                        value = self._call(name, result, probe, view, shape=(view.n_batch, view.n_heads))
                        if value is not None:
                            collected.setdefault((name, layer), []).append(value)

            nlls.append(_forward(model, part, sink if wanted else None, bool(loss), wanted, result.skipped))
        for (name, layer), values in collected.items():
            self._head_rows(name, layer, torch.cat(values), chances[name], batch, result)
        for name in set(chances) - {name for name, _ in collected} - result.problems.keys() - result.skipped.keys():
            result.skipped[name] = f"{type(model).__name__} does not let its attention be replaced"
        for name, probe in loss.items():
            value = self._call(name, result, probe, torch.cat(nlls), batch, shape=(len(batch.inputs),))
            if value is not None:
                self._row(name, None, None, value, _constant(probe, batch), batch, result)

    def _chance(self, name: str, batch: Batch, key: tuple[Any, ...], result: Measured) -> torch.Tensor | None:
        """What an attention probe gives for uniform attention [batch]; None if it fails already there."""
        entry = (name, self.hashes[name], *key)
        if entry not in self._chances:
            value = self._call(
                name, result, self.probes[name], Attention.uniform(batch), shape=(len(batch.inputs), 1), nan=True
            )
            if value is None:
                return None
            if value.isnan().all():
                result.skipped[name] = "no query of the stimulus has a key that the probe looks at"
                return None
            self._chances[entry] = value[:, 0]
        return self._chances[entry]

    def _heads(
        self, model: PreTrainedModel, subject: Subject, work: list[tuple[dict[str, Probe], Batch]], result: Measured
    ) -> None:
        try:
            bridge = self._bridges.of(model, subject.name)
        except NotApplicable as reason:
            result.skipped.update({name: str(reason) for probes, _ in work for name in probes})
            return
        for probes, batch in work:
            heads = Heads(bridge, batch)
            for name, probe in probes.items():
                shape = (len(batch.inputs), bridge.cfg.n_layers, bridge.cfg.n_heads)
                value = self._call(name, result, probe, heads, shape=shape)
                if value is not None:
                    for layer in range(shape[1]):
                        chance = _constant(probe, batch)
                        self._head_rows(name, layer, value[:, layer], torch.full((shape[0],), chance), batch, result)

    def _head_rows(
        self, name: str, layer: int, values: torch.Tensor, chances: torch.Tensor, batch: Batch, result: Measured
    ) -> None:
        # a sequence without any query for this probe has no score under uniform attention either
        usable = ~chances.isnan() if not chances.isnan().all() else torch.ones_like(chances, dtype=torch.bool)
        for head in range(values.shape[1]):
            self._row(name, layer, head, values[usable, head], float(chances[usable].double().mean()), batch, result)

    def _row(
        self,
        name: str,
        layer: int | None,
        head: int | None,
        values: torch.Tensor,
        chance: float,
        batch: Batch,
        result: Measured,
    ) -> None:
        probe = self.probes[name]
        if name in result.problems:
            return
        if not values.isfinite().all():
            result.problems[name] = f"{self._where(name)}: probe {name} returned NaN or infinity"
            result.rows[:] = [row for row in result.rows if row["probe"] != name]
            return
        wide = values.double()
        result.rows.append({
            "probe": name, "layer": layer, "head": head, "value": float(wide.mean()),
            "chance": None if math.isnan(chance) else chance,
            "sd": float(wide.std()) if len(wide) > 1 else None,
            "unit": f"{probe.unit}, {batch.note}" if batch.note else probe.unit, "n": len(wide),
        })  # fmt: skip

    def _where(self, name: str, error: BaseException | None = None) -> str:
        """file:line of the probe, of the innermost line of its file that raised."""
        path = self.definitions[name].path
        frames = traceback.extract_tb(error.__traceback__) if error is not None else []
        lines = [f.lineno for f in frames if Path(f.filename) == path]
        return f"{path}:{lines[-1] if lines else self.probes[name].function.__code__.co_firstlineno}"

    def _call(
        self, name: str, result: Measured, probe: Probe, *views: Any, shape: tuple[int, ...], nan: bool = False
    ) -> torch.Tensor | None:
        """The probe's result, checked; None after noting what is wrong with it (so that all others finish)."""
        try:
            value = probe.function(*views)
        except NotApplicable as reason:
            result.skipped[name] = str(reason)
            return None
        except Exception as error:  # a user's file may raise anything
            result.problems[name] = f"{self._where(name, error)}: probe {name}: {type(error).__name__}: {error}"
            return None
        problem = _fault(value, shape, probe, nan)
        if problem is not None:
            result.problems[name] = f"{self._where(name)}: probe {name} returned {problem}"
            return None
        return value.detach().float().cpu()


def _fault(value: Any, shape: tuple[int, ...], probe: Probe, nan: bool) -> str | None:
    if not isinstance(value, torch.Tensor):
        return f"{type(value).__name__}; legal: a tensor of shape {list(shape)}"
    if tuple(value.shape) != shape:
        return f"shape {list(value.shape)}; legal: {list(shape)}"
    finite = value[~value.isnan()].float()
    if (value.isnan().any() and not nan and probe.reads != "attention") or finite.isinf().any():
        return "NaN or infinity"
    for bound, outside in (
        (probe.low, lambda b: finite.min() < b - TOLERANCE),
        (probe.high, lambda b: finite.max() > b + TOLERANCE),
    ):
        if bound is not None and len(finite) and bool(outside(bound)):
            return f"values from {finite.min():.6g} to {finite.max():.6g}; its declared range is {probe.low} to {probe.high}"
    return None


def _forward(
    model: PreTrainedModel, part: Batch, sink: Any, loss: bool, wanted: dict[str, Probe], skipped: dict[str, str]
) -> torch.Tensor:
    """Run the model, whole only if its loss is wanted; returns the loss of each target [batch, position] (or nothing)."""
    tokens = torch.from_numpy(part.inputs).to(model.device)
    runner = model if loss else model.base_model
    with torch.inference_mode():
        try:
            out = runner(input_ids=tokens, use_cache=False, **({"score_sink": sink} if sink else {}))
        except UserError as error:  # attention that is not plain causal softmax: refused by the attention function
            skipped.update(dict.fromkeys(wanted, str(error)))
            if not loss:
                return torch.empty(0)
            model.set_attn_implementation("sdpa")
            out = runner(input_ids=tokens, use_cache=False)
        if not loss:
            return torch.empty(0)
        targets = torch.from_numpy(part.targets).to(model.device)
        logits = out.logits[:, : targets.shape[1]].float()
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape).cpu()


def _slices(batch: Batch, vocab_size: int) -> list[Batch]:
    rows = max(1, LOGIT_ELEMENTS // (batch.length * vocab_size))
    n = len(batch.inputs)
    return [batch] if rows >= n else [batch.rows(start, min(n, start + rows)) for start in range(0, n, rows)]


def subject_vocab(model: PreTrainedModel) -> int:
    """Columns of the model's logits."""
    return int(model.config.get_text_config().vocab_size)


def _constant(probe: Probe, batch: Batch) -> float:
    chance = probe.chance(batch) if callable(probe.chance) else probe.chance
    return math.nan if chance is None else float(chance)


def _key(subject: Subject) -> tuple[Any, ...]:
    return subject.vocab_size, subject.n_ctx, subject.specials, subject.bos, subject.rows_from
