"""Heads seen through TransformerLens: outputs of single heads, what they write to the logits. Built for causal work.

A bridge rewrites the module tree of the model it wraps, so it always gets a model of its own. Wrapping costs more than
measuring a small model; `Bridges` wraps one model and gives it the weights of each next checkpoint of the same shape.
"""

from __future__ import annotations

from copy import deepcopy
from functools import cached_property
from typing import Any

import torch

from nca_interp.analysis.stimuli import Batch, NotApplicable


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


class Heads:
    """Outputs and attention of all heads of a bridge on one stimulus."""

    def __init__(self, bridge: Any, stimulus: Batch) -> None:
        self.bridge = bridge
        self.stimulus = stimulus
        self.tokens = torch.from_numpy(stimulus.inputs)

    @cached_property
    def cache(self) -> Any:
        """Patterns and head outputs of all layers: keep the stimulus small."""
        wanted = ("attn.hook_pattern", "attn.hook_z")
        with torch.inference_mode():
            _, cache = self.bridge.run_with_cache(
                self.tokens,
                names_filter=lambda n: n.endswith(wanted),
                return_type=None,
                logits_to_keep=1,
                use_cache=False,
            )
        assert len(cache) == 2 * self.bridge.cfg.n_layers, "hooks of TransformerLens were renamed"
        return cache

    def context_tokens(self) -> torch.Tensor:
        """Different tokens of each sequence [batch, n]; the stimulus repeats one block, so every sequence has equally many."""
        period = self.stimulus.period
        if period is None:
            raise ValueError("context_tokens needs a repeated_tokens stimulus")
        return self.tokens[:, : self.stimulus.start + period]

    def logits_on_context(self, layer: int) -> torch.Tensor:
        """What each head writes to the logits of the context's tokens [batch, query, head, n].

        The head's output alone goes through W_O, the final norm (its bias removed) and the unembedding. RMSNorm and
        LayerNorm scale it by a positive number for each query and head, which no share depends on.
        """
        z = self.cache[f"blocks.{layer}.attn.hook_z"].float()
        with torch.inference_mode():
            written = torch.einsum("bqhd,hdm->bqhm", z, self.bridge.W_O[layer].float())
            normed = self.bridge.ln_final(written) - self.bridge.ln_final(torch.zeros_like(written[:1, :1, :1]))
            unembed = self.bridge.W_U.float().T[self.context_tokens()]  # [batch, n, d_model]
            return torch.einsum("bqhm,bnm->bqhn", normed, unembed)

    def share_on_attended(self) -> torch.Tensor:
        """Share of the raised logit that falls on the most-attended token [batch, layer, head, query]; 1 / n if the head
        raises none (writes nothing)."""
        context = self.context_tokens()
        shares = []
        for layer in range(self.bridge.cfg.n_layers):
            logits = self.logits_on_context(layer)
            raised = (logits - logits.mean(-1, keepdim=True)).clamp(min=0.0)
            best = self.cache[f"blocks.{layer}.attn.hook_pattern"].argmax(-1)  # [batch, head, query] -> key
            attended = torch.gather(self.tokens[:, None].expand(-1, best.shape[1], -1), 2, best).transpose(1, 2)
            on_it = (raised * (context[:, None, None] == attended[..., None])).sum(-1)
            total = raised.sum(-1)
            share = torch.where(total > 0, on_it / total.clamp(min=1e-30), 1.0 / context.shape[1])
            shares.append(share.transpose(1, 2))
        return torch.stack(shares, 1)
