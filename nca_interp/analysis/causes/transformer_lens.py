"""The bridge to TransformerLens: a model as a TransformerBridge, with its hooks, caches and interventions."""

from __future__ import annotations

from typing import Any

from nca_interp.analysis.stimuli.base import NotApplicable


def to_transformer_lens(model: Any, name: str = "model") -> Any:
    """A TransformerBridge of TransformerLens around a Hugging Face causal language model (such as of `load_model`).

    No tokenizer, no network. The bridge rewrites the module tree of the model, which must not be used otherwise afterwards;
    its parameters take no gradients. `name` is what the bridge calls itself. NotApplicable where TransformerLens does not know
    the architecture.
    """
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    architecture = type(model).__name__
    try:
        bridge = build_bridge_from_module(model, architecture, hf_config=model.config, tokenizer=None, model_name=name)
    except (ValueError, NotImplementedError, KeyError, AttributeError) as error:
        raise NotApplicable(
            f"TransformerLens does not open {architecture} ({str(error).splitlines()[0][:120]})"
        ) from None
    return bridge.requires_grad_(False)
