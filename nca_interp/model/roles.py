"""What each tensor of a checkpoint is for: read from the model that its configuration describes, which needs no weights.

A tensor belongs to the module that holds it. Its layer is the entry of the list of layers that this lies in; its kind the
first that holds: part of a norm; in a layer, part of its attention, of a recurrent mixer, or anything else (mlp); outside, an
embedding (of tokens, of positions, or the unembedding); other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from nca_interp.base import UserError
from nca_interp.config import MODULES
from nca_interp.model.checkpoint import load_config
from nca_interp.model.llama import kind_of

MIXERS = re.compile("mamba|recurrent|rwkv|(?<!o)ssm|deltanet|mixer2|shortconv|lightning", re.IGNORECASE)
"""In the class of a part of a layer that mixes positions without attention."""
OTHER = "other"
POSITIONS_AFTER_PADDING = frozenset(
    {"camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"}
)
"""Families that count positions from `pad_token_id` + 1, so that their table holds so many more than the context."""
OFFSET = 8
"""Rows that an embedding of positions may have beyond the context (OPT's: 2)."""


class Role(NamedTuple):
    """Of one tensor."""

    kind: str
    """attn, mlp, norm, embed; mixer, other."""
    layer: int | None


RoleOf = Callable[[str], Role]


def named_role(name: str) -> Role:
    """The role of a Llama's tensor, by its name."""
    parts = name.split(".")
    return Role(kind_of(name), int(parts[parts.index("layers") + 1]) if "layers" in parts else None)


@lru_cache(maxsize=8)
def roles_of(directory: Path) -> RoleOf:
    """The roles of the tensors of a checkpoint, by their names in its files."""
    from transformers import AutoModelForCausalLM

    config = load_config(directory)
    if config.model_type == "llama":
        return named_role
    with torch.device("meta"):
        return model_roles(AutoModelForCausalLM.from_config(config, attn_implementation="eager"))


def model_roles(model: Any) -> RoleOf:
    """The roles of the tensors of a model. A name that is not its own (files may keep a base model, or the parts of what
    transformers puts together) is that of the deepest module on its path that the model has."""
    modules = dict(model.named_modules())
    n_layers = model.config.get_text_config().num_hidden_layers
    lists = [path for path, m in modules.items() if isinstance(m, torch.nn.ModuleList) and len(m) == n_layers]
    layers = min(lists, key=lambda path: path.count("."), default=None)
    prefix = f"{model.base_model_prefix}."
    head = model.get_output_embeddings()

    def role(name: str) -> Role:
        path = next((p for p in (name, prefix + name, name.removeprefix(prefix)) if p.split(".")[0] in modules), name)
        chain = list(_chain(path, modules))
        inside, layer = chain, None
        if layers is not None and path.startswith(f"{layers}."):
            layer = int(path.removeprefix(f"{layers}.").partition(".")[0])
            inside = [(p, m) for p, m in chain if p.startswith(f"{layers}.{layer}.")]
        kind = _kind([m for _, m in inside], layer, head)
        if (
            kind == OTHER and layer is None and re.search("emb|head", name)
        ):  # transformers renames some on saving: embed_out
            kind = "embed"
        return Role(kind, layer)

    return role


def _chain(path: str, modules: Mapping[str, torch.nn.Module]) -> Iterator[tuple[str, torch.nn.Module]]:
    """The modules on the path of a tensor, outermost first."""
    parts = path.split(".")
    for end in range(1, len(parts)):
        if (module := modules.get(".".join(parts[:end]))) is not None:
            yield ".".join(parts[:end]), module


def _kind(chain: list[torch.nn.Module], layer: int | None, head: Any) -> str:
    names = [type(module).__name__.lower() for module in chain]
    if any("norm" in name for name in names):
        return "norm"
    if layer is not None:
        if any("attention" in name or "attn" in name for name in names):
            return "attn"
        return "mixer" if any(MIXERS.search(name) for name in names) else ("mlp" if chain else OTHER)
    return "embed" if any(isinstance(m, torch.nn.Embedding) or m is head or "embedding" in n for m, n in zip(chain, names, strict=True)) else OTHER  # fmt: skip


def layers_of(model: Any) -> torch.nn.ModuleList:
    """The list of a model's layers: the outermost that has as many entries as its configuration says."""
    n_layers = model.config.get_text_config().num_hidden_layers
    lists = {p: m for p, m in model.named_modules() if isinstance(m, torch.nn.ModuleList) and len(m) == n_layers}
    if not lists:
        raise UserError(f"{type(model).__name__}: it does not keep its {n_layers} layers in a list")
    return lists[min(lists, key=lambda path: path.count("."))]


def kinds_of(model: Any) -> dict[str, str]:
    """By parameter of a model that is trained: attn, mlp, norm, or embed (the embedding and unembedding of tokens, which a swap
    draws anew). Learned positions count as attn, where other families have their rotary ones.

    UserError names a tensor whose part in the network is not recognised: of a recurrent mixer, a router's bias outside any
    layer, an adapter between embedding and layers.
    """
    from transformers import LlamaForCausalLM

    if isinstance(model, LlamaForCausalLM):
        return {name: kind_of(name) for name, _ in model.named_parameters()}
    if model.get_output_embeddings() is None:
        raise UserError(f"{type(model).__name__}: it has no unembedding that transformers names")
    role, n_ctx = model_roles(model), context_length(model.config)
    tokens = {id(p) for part in _token_parts(model) for p in part.parameters()}
    found = {}
    for name, parameter in model.named_parameters():
        holder, kind = model.get_submodule(name.rpartition(".")[0]), role(name).kind
        if id(parameter) in tokens:
            kind = "embed"
        elif kind == "embed" and isinstance(holder, torch.nn.Embedding) and 0 <= len(parameter) - n_ctx <= OFFSET:
            kind = "attn"
        elif kind not in MODULES:
            why = (
                "it mixes positions without attention (recurrent)" if kind == "mixer" else "its part is not recognised"
            )
            raise UserError(
                f"{type(model).__name__}: tensor {name} of {type(holder).__name__}: {why}; legal: attention, MLP, norms, and "
                "embeddings of tokens and positions"
            )
        found[name] = kind
    return found


def _token_parts(model: Any) -> tuple[Any, Any]:
    return model.get_input_embeddings(), model.get_output_embeddings()


def unembedding_of(model: Any) -> str | None:
    """Name of the unembedding's matrix among the parameters; None where it is the embedding's."""
    embedding, head = (part.weight for part in _token_parts(model))
    return None if head is embedding else next(name for name, p in model.named_parameters() if p is head)


def context_length(config: Any) -> int:
    """Longest sequence a Hugging Face text configuration allows; 2048 where it names none."""
    first = (config.pad_token_id or 0) + 1 if config.model_type in POSITIONS_AFTER_PADDING else 0
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_target_positions"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > first:
            return value - first
    return 2048
