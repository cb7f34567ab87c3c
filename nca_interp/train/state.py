"""The resumable state of a run: weights, AdamW moments, step. Safetensors and JSON only; committed atomically."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from nca_interp.store import commit_dir, damage, read_json, write_json


def save_state(directory: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Commit the state after `step` steps, replacing the one before only once the new one is complete."""
    weights = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters()}
    moments: dict[str, torch.Tensor] = {}
    for name, state in _optimizer_states(model, optimizer):
        for key, value in state.items():
            moments[f"{name}|{key}"] = torch.as_tensor(value).detach().cpu().contiguous()

    def write(temporary: Path) -> None:
        save_file(weights, temporary / "model.safetensors")
        save_file(moments, temporary / "optimizer.safetensors")
        write_json(temporary / "state.json", {"step": step})

    commit_dir(directory, write)


def load_state(directory: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, str | None]:
    """Restore the newest whole state in place; returns (step, problem): step 0 if there is none or it is damaged."""
    if not directory.is_dir():
        return 0, None
    if problem := damage(directory):
        return 0, problem
    weights = load_file(directory / "model.safetensors")
    moments = load_file(directory / "optimizer.safetensors")
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)
    states: dict[str, dict[str, Any]] = {}
    for key, value in moments.items():
        name, _, field = key.rpartition("|")
        # AdamW keeps its step count on the CPU as float32 unless fused on an accelerator
        device = parameters[name].device if value.ndim else _step_device(parameters[name], optimizer)
        states.setdefault(name, {})[field] = value.to(device)
    for name, state in states.items():
        optimizer.state[parameters[name]] = state
    return int(read_json(directory / "state.json")["step"]), None


def _step_device(parameter: nn.Parameter, optimizer: torch.optim.Optimizer) -> torch.device:
    fused = any(group.get("fused") for group in optimizer.param_groups)
    return parameter.device if fused else torch.device("cpu")


def _optimizer_states(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, parameter in model.named_parameters():
        if parameter in optimizer.state:
            yield name, optimizer.state[parameter]
