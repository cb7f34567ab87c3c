"""The embedding swap: from the synthetic vocabulary to the language's, everything else carried over or re-initialised.

arXiv 2603.10055 re-initialises embedding and unembedding only; its section 5.3.1 re-initialises module types to see
which carry the transfer. Here both are one function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch

from nca_interp.config import MODULES, ModelConfig, Module
from nca_interp.model.llama import build, fill, kind_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def swap(
    parent: PreTrainedModel,
    config: ModelConfig,
    vocab_size: int,
    seed: int,
    keep: tuple[Module, ...] = MODULES,
    reinit_to: Literal["initial", "fresh"] = "initial",
) -> tuple[PreTrainedModel, list[dict[str, Any]]]:
    """A new model for `vocab_size` tokens that carries over the `keep` module types of `parent`.

    Everything else holds this seed's own initial values ("initial": keeping nothing gives scratch bit for bit) or a
    draw from another stream ("fresh"). Returns the model and a log: tensor, kind, what was done, shape, and the
    standard deviation before and after.
    """
    model = build(config, vocab_size, seed, stream="pt")
    if reinit_to == "fresh":
        body = {name for name, _ in model.named_parameters() if kind_of(name) != "embed"}
        fill(model, config, seed, "pt", body, draw="fresh")
    old = dict(parent.named_parameters())
    log = []
    for name, parameter in model.named_parameters():
        kind = kind_of(name)
        carried = kind in keep
        before = old.get(name)
        if carried:
            assert before is not None, name
            assert before.shape == parameter.shape, name
            parameter.copy_(before)
        log.append(
            {
                "tensor": name,
                "kind": kind,
                "action": "carried over" if carried else f"re-initialised ({reinit_to if kind != 'embed' else 'new'})",
                "shape": list(parameter.shape),
                "std_before": None if before is None else float(before.float().std()),
                "std_after": float(parameter.float().std()),
            }
        )
    return model, log
