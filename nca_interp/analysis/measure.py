"""Run probes on one opened model: group them by stimulus, pass each stimulus once, check what every probe returns."""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from nca_interp.analysis.attention import Attention
from nca_interp.analysis.heads import Heads
from nca_interp.analysis.kernel import FAST, Layer, register
from nca_interp.analysis.losses import token_losses
from nca_interp.analysis.probe import Probe
from nca_interp.analysis.stimuli import Batch, NotApplicable, Stimulus, Subject
from nca_interp.base import UserError
from nca_interp.discover import Definition

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ENGINE_CODE = (
    "attention.py", "geometry.py", "heads.py", "kernel.py", "losses.py", "measure.py", "probabilities.py", "scores.py", "stimuli.py", "streams.py", "subject.py",
)  # fmt: skip
"""Files of this package that decide a number."""
DTYPES = ("float32", "bfloat16", "float16")
PASS_TOKENS = 2**14
"""Tokens of a forward pass; a longer stimulus goes through in slices of whole sequences."""
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
        self._batches: dict[tuple[Any, ...], Batch | NotApplicable | str] = {}
        self._chances: dict[tuple[Any, ...], torch.Tensor] = {}

    def only(self, names: set[str]) -> Measurer:
        """A measurer of some of the probes that shares what this one keeps."""
        if names == set(self.hashes):
            return self
        part = Measurer({name: d for name, d in self.definitions.items() if name in names})
        part._batches, part._chances = self._batches, self._chances
        return part

    def measure(self, model: PreTrainedModel, subject: Subject) -> Measured:
        """All probes on one model."""
        result = Measured([], {}, {})
        by_stimulus: dict[Stimulus, dict[str, Probe]] = {}
        for name, probe in self.probes.items():
            by_stimulus.setdefault(probe.stimulus, {})[name] = probe
        for stimulus, probes in by_stimulus.items():
            key = (stimulus, *_key(subject))
            batch = self._build(stimulus, subject, key, probes, result)
            if batch is not None:
                self._pass(model, batch, probes, key, result)
        place = {name: index for index, name in enumerate(self.probes)}
        result.rows.sort(key=lambda row: place[row["probe"]])
        return result

    def _build(
        self, stimulus: Stimulus, subject: Subject, key: tuple[Any, ...], probes: dict[str, Probe], result: Measured
    ) -> Batch | None:
        """The stimulus for this checkpoint; None after noting for its probes why there is none."""
        if key not in self._batches:
            try:
                batch = stimulus.build(subject)
                self._batches[key] = _fault_of_batch(batch, subject) or batch
            except NotApplicable as reason:
                self._batches[key] = NotApplicable(str(reason))
            except Exception as error:  # a user's stimulus may raise anything
                self._batches[key] = f"its stimulus {stimulus} raised {type(error).__name__}: {error}"
        built = self._batches[key]
        if isinstance(built, Batch):
            return built
        if isinstance(built, NotApplicable):
            result.skipped.update(dict.fromkeys(probes, str(built)))
        else:
            result.problems.update({name: f"{self._where(name)}: probe {name}: {built}" for name in probes})
        return None

    def _pass(
        self, model: PreTrainedModel, batch: Batch, probes: dict[str, Probe], key: tuple[Any, ...], result: Measured
    ) -> None:
        """One forward pass of a stimulus (in slices of whole sequences where it is long) for all probes that read it."""
        kinds: dict[str, dict[str, Probe]] = {"attention": {}, "heads": {}, "loss": {}, "stimulus": {}}
        for name, probe in probes.items():
            kinds[probe.reads][name] = probe
        chances = {n: c for n in kinds["attention"] if (c := self._chance(n, batch, key, result)) is not None}
        for name in kinds["heads"]:
            if (level := self._constant(name, batch, result)) is not None:
                chances[name] = torch.full((len(batch.inputs),), level)
        collected: dict[tuple[str, int], list[torch.Tensor]] = {}
        nlls = []
        if chances or kinds["loss"]:
            for part in _slices(batch):
                sink = self._sink(model, part, {n: probes[n] for n in chances}, collected, result) if chances else None
                nlls.append(_forward(model, part, sink, bool(kinds["loss"]), chances, result.skipped))
        for (name, layer), values in collected.items():
            self._head_rows(name, layer, torch.cat(values), chances[name], batch, result)
        for name in set(chances) - {name for name, _ in collected} - result.problems.keys() - result.skipped.keys():
            result.skipped[name] = f"{type(model).__name__} does not let its attention be replaced"
        for name, probe in (kinds["loss"] | kinds["stimulus"]).items():
            views = (torch.cat(nlls), batch) if probe.reads == "loss" else (batch,)
            value = self._call(name, result, probe, *views, shape=(len(batch.inputs),))
            level = None if value is None else self._constant(name, batch, result)
            if value is not None and level is not None:
                self._rows(name, None, value[:, None], level, batch, result)

    def _sink(
        self,
        model: PreTrainedModel,
        part: Batch,
        probes: dict[str, Probe],
        collected: dict[tuple[str, int], list[torch.Tensor]],
        result: Measured,
    ) -> Any:
        """What the attention function calls for each layer: every probe looks, what it returns is kept."""
        wants_heads = any(probe.reads == "heads" for probe in probes.values())

        def sink(layer: Layer) -> None:
            view = Heads(layer, part, model) if wants_heads else Attention.of(layer, part)
            for name, probe in probes.items():
                if name not in result.problems and name not in result.skipped:
                    value = self._call(name, result, probe, view, shape=(view.n_batch, view.n_heads))
                    if value is not None:
                        collected.setdefault((name, layer.number), []).append(value)

        return sink

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

    def _constant(self, name: str, batch: Batch, result: Measured) -> float | None:
        """The declared chance level, NaN where none is; None if it cannot be computed."""
        chance = self.probes[name].chance
        try:
            level = chance(batch) if callable(chance) else chance
            return math.nan if level is None else float(level)
        except Exception as error:  # a user's file may raise anything
            result.problems[name] = (
                f"{self._where(name, error)}: chance of probe {name}: {type(error).__name__}: {error}"
            )
            return None

    def _head_rows(
        self, name: str, layer: int, values: torch.Tensor, chances: torch.Tensor, batch: Batch, result: Measured
    ) -> None:
        # a sequence without any query for this probe has no score under uniform attention either
        usable = ~chances.isnan() if not chances.isnan().all() else torch.ones_like(chances, dtype=torch.bool)
        self._rows(name, layer, values[usable], float(chances[usable].double().mean()), batch, result)

    def _rows(
        self, name: str, layer: int | None, values: torch.Tensor, chance: float, batch: Batch, result: Measured
    ) -> None:
        """A row for each column of values [sequence, head], or one for the model (layer None)."""
        probe = self.probes[name]
        if name in result.problems:
            return
        if not values.isfinite().all():
            result.problems[name] = f"{self._where(name)}: probe {name} returned NaN or infinity"
            result.rows[:] = [row for row in result.rows if row["probe"] != name]
            return
        wide = values.double()
        means, deviations = wide.mean(0).tolist(), wide.std(0).tolist() if len(wide) > 1 else [None] * wide.shape[1]
        for head, (mean, deviation) in enumerate(zip(means, deviations, strict=True)):
            result.rows.append({
                "probe": name, "layer": layer, "head": None if layer is None else head, "value": mean,
                "chance": None if math.isnan(chance) else chance, "null_95": None, "hit": None, "sd": deviation,
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
        value = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
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
    if (value.isnan().any() and not nan and probe.reads not in ("attention", "heads")) or finite.isinf().any():
        return "NaN or infinity"
    for bound, outside in (
        (probe.low, lambda b: finite.min() < b - TOLERANCE),
        (probe.high, lambda b: finite.max() > b + TOLERANCE),
    ):
        if bound is not None and len(finite) and bool(outside(bound)):
            return f"values from {finite.min():.6g} to {finite.max():.6g}; its declared range is {probe.low} to {probe.high}"
    return None


def _fault_of_batch(batch: Any, subject: Subject) -> str | None:
    """What makes a built stimulus one that the model cannot take."""
    if not isinstance(batch, Batch):
        return f"its stimulus built a {type(batch).__name__}; legal: a Batch"
    if batch.length > subject.n_ctx:
        return f"its stimulus has {batch.length} tokens a sequence; the model's context holds {subject.n_ctx}"
    for tokens in (batch.inputs, batch.targets):
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < subject.vocab_size:
            return f"its stimulus holds tokens {tokens.min()} to {tokens.max()}; the model knows 0 to {subject.vocab_size - 1}"
    return None


def open_scored(directory: Path, device: str = "cpu", dtype: str = "float32") -> PreTrainedModel:
    """A model with the attention function that hands out scores, where its class allows another attention."""
    from nca_interp.model.checkpoint import load_model

    if dtype not in DTYPES:
        raise UserError(f"dtype: {dtype!r}; legal: {', '.join(DTYPES)}")
    register()
    try:
        model = load_model(directory, attn=FAST, dtype=getattr(torch, dtype))
    except UserError as error:
        if "attn_implementation" not in str(error) and "attention" not in str(error).lower():
            raise
        model = load_model(directory, attn="eager", dtype=getattr(torch, dtype))
    return on_device(model, device)


def on_device(model: Any, device: str) -> PreTrainedModel:
    """The model moved there; UserError where the device is not usable."""
    try:
        moved: PreTrainedModel = model.to(device)
        return moved
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device: {device!r} is not usable here ({str(error).splitlines()[0]})") from None


def _forward(
    model: PreTrainedModel, part: Batch, sink: Any, loss: bool, wanted: Iterable[str], skipped: dict[str, str]
) -> torch.Tensor:
    """Run the backbone, and the head if its loss is wanted; returns the loss of each target [batch, position] (or nothing)."""
    tokens = torch.from_numpy(np.asarray(part.inputs, dtype=np.int64)).to(model.device)
    with torch.inference_mode():
        try:
            out = model.base_model(input_ids=tokens, use_cache=False, **({"score_sink": sink} if sink else {}))
        except UserError as error:  # attention that is not causal softmax: refused by the attention function
            skipped.update(dict.fromkeys(wanted, str(error)))
            if not loss:
                return torch.empty(0)
            model.set_attn_implementation("eager")
            out = model.base_model(input_ids=tokens, use_cache=False)
            model.set_attn_implementation(FAST)
    if not loss:
        return torch.empty(0)
    targets = torch.from_numpy(np.asarray(part.targets, dtype=np.int64)).to(model.device)
    return token_losses(model, out, tokens, targets).cpu()


def _slices(batch: Batch) -> list[Batch]:
    rows, n = max(1, PASS_TOKENS // batch.length), len(batch.inputs)
    return [batch] if rows >= n else [batch.rows(start, min(n, start + rows)) for start in range(0, n, rows)]


def _key(subject: Subject) -> tuple[Any, ...]:
    return subject.vocab_size, subject.n_ctx, subject.specials, subject.bos, subject.rows_from
