"""Models seen through TransformerLens, for causal work: hooks, ablation, patching, lenses.

A bridge rewrites the module tree of the model it wraps, so it always gets a model of its own. Wrapping costs more than
measuring a small model; `Bridges` wraps one model and gives it the weights of each next checkpoint of the same shape.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch

from nca_interp.analysis.stimuli.base import NotApplicable


def wrap(model: Any, name: str) -> Any:
    """A TransformerBridge around `model` (which must not be used otherwise afterwards); no tokenizer, no network."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    architecture = type(model).__name__
    try:
        bridge = build_bridge_from_module(model, architecture, hf_config=model.config, tokenizer=None, model_name=name)
    except (ValueError, NotImplementedError, KeyError, AttributeError) as error:
        raise NotApplicable(
            f"TransformerLens does not open {architecture} ({str(error).splitlines()[0][:120]})"
        ) from None
    return bridge.requires_grad_(False)


class Bridges:
    """The last bridge, reused for models of equal configuration."""

    def __init__(self) -> None:
        self._config = ""
        self._bridge: Any = None
        self._parameters: dict[str, torch.nn.Parameter] = {}

    def of(self, model: Any, name: str) -> Any:
        """A bridge that holds a copy of `model`'s weights; valid until the next call. `model` stays usable."""
        config = f"{type(model).__name__} {model.config.to_json_string()}"
        if config != self._config:
            copy = deepcopy(model)
            parameters = dict(copy.named_parameters())  # wrapping renames them, the objects stay
            self._bridge, self._config, self._parameters = wrap(copy, name), config, parameters
        else:
            with torch.no_grad():
                for key, value in model.named_parameters():
                    self._parameters[key].copy_(value)
        return self._bridge
