"""Checkpoints of a run opened one after the other: those of our own trainer are of one configuration, and share one model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nca_interp.analysis.collection.collection import Settings
from nca_interp.analysis.collection.run import Run
from nca_interp.machine import check_device, device_type


class Series:
    """Opens the checkpoints of a run as causal language models; a model is valid until the next one is opened."""

    def __init__(self, run: Run, settings: Settings | None = None, load: Callable[[Path], Any] | None = None) -> None:
        """`load`: how a checkpoint of another configuration than the one before is opened."""
        self.run, self._settings = run, settings or Settings()
        self._load = load or self._plain
        self._model: Any = None
        self._layout: tuple[Any, ...] = ()

    def open(self, step: int) -> Any:
        """The checkpoint after `step` steps, in evaluation mode. UserError as `load_model`."""
        directory = self.run.checkpoint(step)
        if self.run.config is None:
            return self._load(directory)
        from nca_interp.model.tensors import read_headers

        layout = ((directory / "config.json").read_bytes(), read_headers(directory))
        if self._model is None or layout != self._layout:
            self._model, self._layout = self._load(directory), layout
        else:
            self._fill(directory)
        return self._model

    def _plain(self, directory: Path) -> Any:
        import torch

        from nca_interp.model.checkpoint import load_model

        device = device_type() if self.run.config is not None else self._settings.device
        check_device(device)
        model: Any = load_model(directory, dtype=getattr(torch, self._settings.dtype))
        return model.to(device)

    def _fill(self, directory: Path) -> None:
        """Weights of the same names and shapes into the model that is open."""
        from safetensors.torch import load_file

        from nca_interp.borders import border
        from nca_interp.model.folder import check_directory
        from nca_interp.model.tensors import check_finite, weight_files

        check_directory(directory)
        for file in weight_files(directory):
            with border("the weights do not load", file):
                tensors = load_file(str(file))
            check_finite(directory, tensors.items())
            self._model.load_state_dict(tensors, strict=False)  # the names are those of the first: ties stay tied
