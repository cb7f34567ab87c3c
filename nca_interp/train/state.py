"""The resumable states of a run: weights, AdamW moments, step. Safetensors and JSON only; committed atomically.

Two are kept, so that a damaged one costs the steps since the one before it and never the run. Each takes 12 bytes a
parameter; checkpoints for analysis take 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from nca_interp.store import RunDir, commit_dir, damage, read_json, write_json
from nca_interp.train.parallel import like, whole

KEPT = 2
"""Newest states that are kept while a run lasts; one more exists while it is written."""


class Resumed(NamedTuple):
    """Where a run continues, and what is wrong with newer states."""

    step: int
    problems: list[str]


def save_state(
    run: RunDir,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    keep: Iterable[int] = (),
    write: bool = True,
) -> None:
    """Commit the state after `step` steps; then remove all but the newest `KEPT` and those of the steps in `keep`.

    Where tensors are sharded every process has to call this; one of them, with `write`, writes.
    """
    weights = {name: whole(p.detach()).cpu().contiguous() for name, p in model.named_parameters()}
    moments: dict[str, torch.Tensor] = {}
    for name, state in _optimizer_states(model, optimizer):
        for key, value in state.items():
            moments[f"{name}|{key}"] = whole(torch.as_tensor(value).detach()).cpu().contiguous()
    if not write:
        return

    def fill(temporary: Path) -> None:
        save_file(weights, temporary / "model.safetensors")
        save_file(moments, temporary / "optimizer.safetensors")
        write_json(temporary / "state.json", {"step": step})

    run.sync_metrics()
    commit_dir(run.state(step), fill)
    run.prune_states(step, KEPT, keep)


def load_state(run: RunDir, model: nn.Module, optimizer: torch.optim.Optimizer) -> Resumed:
    """Restore the newest whole state in place. Damaged ones are named; step 0 if none is whole."""
    problems = []
    for step in reversed(run.state_steps()):
        directory = run.state(step)
        if problem := damage(directory):
            problems.append(f"{directory} is damaged: {problem}")
            continue
        _restore(directory, model, optimizer)
        return Resumed(int(read_json(directory / "state.json")["step"]), problems)
    return Resumed(0, problems)


def _restore(directory: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    weights = load_file(directory / "model.safetensors")
    moments = load_file(directory / "optimizer.safetensors")
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(like(value, parameters[name]))
    states: dict[str, dict[str, Any]] = {}
    for key, value in moments.items():
        name, _, field = key.rpartition("|")
        # AdamW keeps its step count on the CPU as float32 unless fused on an accelerator
        parameter = parameters[name]
        placed = like(value, parameter) if value.ndim else value.to(_step_device(parameter, optimizer))
        states.setdefault(name, {})[field] = placed
    for name, state in states.items():
        optimizer.state[parameters[name]] = state


def _step_device(parameter: nn.Parameter, optimizer: torch.optim.Optimizer) -> torch.device:
    fused = any(group.get("fused") for group in optimizer.param_groups)
    return parameter.device if fused else torch.device("cpu")


def _optimizer_states(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, parameter in model.named_parameters():
        if parameter in optimizer.state:
            yield name, optimizer.state[parameter]
