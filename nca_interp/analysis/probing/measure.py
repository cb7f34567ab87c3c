"""Run probes on one opened model: group them by stimulus, pass each stimulus once, check what every probe returns."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from nca_interp.analysis.attention.access import access
from nca_interp.analysis.attention.forward import forward, slices
from nca_interp.analysis.attention.heads import Heads, at_projection
from nca_interp.analysis.attention.kernel import Layer
from nca_interp.analysis.attention.scores import NO_QUERY
from nca_interp.analysis.attention.view import Attention
from nca_interp.analysis.probing.faults import fault_of_batch, fault_of_value
from nca_interp.analysis.probing.probe import Probe
from nca_interp.analysis.stimuli.base import Batch, NotApplicable, Stimulus, Subject
from nca_interp.base import UserError
from nca_interp.discover import Definition
from nca_interp.discover import reason as reason_of
from nca_interp.machine import check_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ENGINE_CODE = (
    "attention/access.py", "attention/anatomy.py", "attention/backbone.py", "attention/forward.py", "attention/heads.py",
    "attention/kernel.py", "attention/losses.py", "attention/probabilities.py", "attention/returned.py", "attention/scores.py",
    "attention/view.py", "probing/faults.py", "probing/measure.py", "stimuli/base.py", "stimuli/geometry.py", "stimuli/size.py",
    "stimuli/streams.py", "stimuli/subject.py", "stimuli/text.py", "stimuli/vocabulary.py",
)  # fmt: skip
"""Files of this package that decide a number."""
DTYPES = ("float32", "bfloat16", "float16")


class Measured(NamedTuple):
    """Results on one checkpoint."""

    rows: list[dict[str, Any]]
    """probe, layer, head, value, chance, sd, unit, n."""
    problems: dict[str, str]
    """Probe -> what went wrong, with file and line."""
    skipped: dict[str, str]
    """Probe -> why it does not apply."""
    tokens: dict[str, Any] | None = None
    """What the stimuli were made of (`stimuli.account`)."""


class _Slice(NamedTuple):
    """One probe in one layer on some sequences of a stimulus."""

    value: torch.Tensor
    """[batch, head]."""
    chance: torch.Tensor
    """[batch]; NaN for a sequence without a query for this probe."""


class Measurer:
    """A set of probes; keeps stimuli, and with them what does not depend on the weights, between checkpoints."""

    def __init__(self, definitions: dict[str, Definition]) -> None:
        self.definitions = definitions
        self.probes: dict[str, Probe] = {name: d.value for name, d in definitions.items()}
        self.hashes = {name: d.sha256 for name, d in definitions.items()}
        self._batches: dict[tuple[Any, ...], Batch | NotApplicable | str] = {}

    def only(self, names: set[str]) -> Measurer:
        """A measurer of some of the probes that shares what this one keeps."""
        if names == set(self.hashes):
            return self
        part = Measurer({name: d for name, d in self.definitions.items() if name in names})
        part._batches = self._batches
        return part

    def measure(
        self, model: PreTrainedModel, subject: Subject, tell: Callable[[float], None] = lambda share: None
    ) -> Measured:
        """All probes on one model; tell(share of the tokens that went through) is called now and then."""
        result = Measured([], {}, {})
        by_stimulus: dict[Stimulus, dict[str, Probe]] = {}
        for name, probe in self.probes.items():
            by_stimulus.setdefault(probe.stimulus, {})[name] = probe
        built = {s: self._build(s, subject, (s, *subject.key), probes, result) for s, probes in by_stimulus.items()}
        total, done = max(1, sum(batch.inputs.size for batch in built.values() if batch is not None)), 0
        for stimulus, batch in built.items():
            if batch is not None:
                before = done

                def tell_part(tokens: int, before: int = before) -> None:
                    tell((before + tokens) / total)

                self._pass(model, batch, by_stimulus[stimulus], result, tell_part)
                done += batch.inputs.size
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
                self._batches[key] = fault_of_batch(batch, subject) or subject.part(batch)
            except NotApplicable as reason:
                self._batches[key] = NotApplicable(str(reason))
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a user's stimulus may raise anything
                self._batches[key] = f"its stimulus {stimulus} raised {reason_of(error)}"
        built = self._batches[key]
        if isinstance(built, Batch):
            return built
        if isinstance(built, NotApplicable):
            result.skipped.update(dict.fromkeys(probes, str(built)))
        else:
            result.problems.update({name: f"{self._where(name)}: probe {name}: {built}" for name in probes})
        return None

    def _pass(
        self,
        model: PreTrainedModel,
        batch: Batch,
        probes: dict[str, Probe],
        result: Measured,
        tell: Callable[[int], None],
    ) -> None:
        """One forward pass of a stimulus (in slices of whole sequences where it is long) for all probes that read it."""
        kinds: dict[str, dict[str, Probe]] = {"attention": {}, "heads": {}, "loss": {}, "stimulus": {}}
        for name, probe in probes.items():
            kinds[probe.reads][name] = probe
        looking = [name for name in kinds["attention"] if self._has_queries(name, batch, result)]
        constants = {name: self._constant(name, batch, result) for name in kinds["heads"]}
        looking += [name for name, level in constants.items() if level is not None]
        collected: dict[tuple[str, int], list[_Slice]] = {}
        nlls = []
        if looking or kinds["loss"]:
            done = 0
            for part in slices(batch):
                sink = self._sink(model, part, {n: probes[n] for n in looking}, constants, collected, result)
                whole = at_projection(model, part.inputs, sink) if constants else nullcontext(sink)
                with whole as handed:
                    wanted = handed if looking else None
                    nlls.append(forward(model, part, wanted, bool(kinds["loss"]), looking, result.skipped))
                done += part.inputs.size
                tell(done)
        for (name, layer), found in collected.items():
            self._head_rows(name, layer, found, batch, result)
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
        constants: dict[str, float | None],
        collected: dict[tuple[str, int], list[_Slice]],
        result: Measured,
    ) -> Any:
        """What the attention function calls for each layer: every probe looks, what it returns is kept."""
        wants_heads = any(probe.reads == "heads" for probe in probes.values())

        def sink(layer: Layer) -> None:
            view = Heads(layer, part, model) if wants_heads else Attention.of(layer, part)
            mask = None if layer.rule.allowed is None else _number_of(layer.rule.allowed.cpu(), part)
            for name, probe in probes.items():
                if name in result.problems or name in result.skipped:
                    continue
                value = self._call(name, result, probe, view, shape=(view.n_batch, view.n_heads))
                constant = constants.get(name)
                if constant is not None:
                    level: torch.Tensor | None = torch.full((view.n_batch,), constant)
                else:
                    level = self._level(name, part, mask, result)
                if value is not None and level is not None:
                    collected.setdefault((name, layer.number), []).append(_Slice(value, level))

        return sink

    def _has_queries(self, name: str, batch: Batch, result: Measured) -> bool:
        """Whether an attention probe has a chance level here; notes why where it has none."""
        levels = [self._level(name, part, None, result) for part in slices(batch)]
        if any(level is None for level in levels):
            return False
        if all(bool(level.isnan().all()) for level in levels if level is not None):
            result.skipped[name] = "no query of the stimulus has a key that the probe looks at"
            return False
        return True

    def _level(self, name: str, part: Batch, mask: int | None, result: Measured) -> torch.Tensor | None:
        """What an attention probe gives for uniform attention [batch] to the keys that a mask allows (its `_number_of`;
        None: all up to the query); None if it fails already there."""
        entry = ("chance", name, self.hashes[name], mask)
        if entry not in part.memo:
            view = Attention.uniform(part, None if mask is None else part.memo["masks"][mask])
            part.memo.pop(NO_QUERY, None)
            value = self._call(name, result, self.probes[name], view, shape=(len(part.inputs), 1), nan=True)
            if value is None:
                return None
            if value.isnan().any() and NO_QUERY not in part.memo:
                result.problems[name] = f"{self._where(name)}: probe {name} returned NaN or infinity"
                return None
            part.memo[entry] = value[:, 0]
        level: torch.Tensor = part.memo[entry]
        return level

    def _constant(self, name: str, batch: Batch, result: Measured) -> float | None:
        """The declared chance level, NaN where none is; None if it cannot be computed."""
        chance = self.probes[name].chance
        try:
            level = chance(batch) if callable(chance) else chance
            return math.nan if level is None else float(level)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a user's file may raise anything
            result.problems[name] = f"{self._where(name, error)}: chance of probe {name}: {reason_of(error)}"
            return None

    def _head_rows(self, name: str, layer: int, found: list[_Slice], batch: Batch, result: Measured) -> None:
        values, chances = torch.cat([part.value for part in found]), torch.cat([part.chance for part in found])
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
            value = torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value
            value = value.detach().cpu() if isinstance(value, torch.Tensor) else value  # once, before all questions
        except NotApplicable as reason:
            result.skipped[name] = str(reason)
            return None
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a user's file may raise anything
            result.problems[name] = f"{self._where(name, error)}: probe {name}: {reason_of(error)}"
            return None
        problem = fault_of_value(value, shape, probe, nan)
        if problem is not None:
            result.problems[name] = f"{self._where(name)}: probe {name} returned {problem}"
            return None
        return value.float()


def open_scored(directory: Path, device: str = "cpu", dtype: str = "float32") -> PreTrainedModel:
    """A tested model whose attention can be read as far as `access` says. UserError for one that is not causal."""
    from nca_interp.model.checkpoint import load_model

    if dtype not in DTYPES:
        raise UserError(f"dtype: {dtype!r}; legal: {', '.join(DTYPES)}")
    model = on_device(load_model(directory, attn="eager", dtype=getattr(torch, dtype)), device)
    try:
        access(model)
    except UserError as error:
        raise UserError(f"{directory}: {error}") from None
    return model


def on_device(model: Any, device: str) -> PreTrainedModel:
    """The model moved there; UserError where the device is not usable."""
    check_device(device)
    try:
        moved: PreTrainedModel = model.to(device)
        return moved
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device: {device!r} is not usable here ({str(error).splitlines()[0]})") from None


def _number_of(allowed: torch.Tensor, part: Batch) -> int:
    """Which of the masks that a stimulus met with this one is; layers with a window differ from those without."""
    masks: list[torch.Tensor] = part.memo.setdefault("masks", [])
    number = next((i for i, mask in enumerate(masks) if torch.equal(mask, allowed)), len(masks))
    if number == len(masks):
        masks.append(allowed)
    return number
