"""Models seen through TransformerLens, for causal work: hooks, ablation, patching, lenses.

A bridge rewrites the module tree of the model it wraps, so it always gets a model of its own.
"""

from __future__ import annotations

from typing import Any

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
