"""A checkpoint that was trained elsewhere, as the parent of runs: what it is, whether it can be trained on, whether a study says
the same of it. Nothing is written, nothing unpickled, no code of the checkpoint run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from nca_interp.base import UserError
from nca_interp.borders import border
from nca_interp.checkpoint_spec import Architecture, CheckpointSpec
from nca_interp.config import ModelConfig, Study
from nca_interp.graft import Graft
from nca_interp.model.checkpoint import load_config, load_model
from nca_interp.model.family import family_config, fields_of
from nca_interp.model.folder import check_directory
from nca_interp.model.graft import Geometry, pieces_of
from nca_interp.model.llama import hf_config
from nca_interp.model.own_forward import training_forward
from nca_interp.model.roles import context_length, kinds_of
from nca_interp.model.source import Source
from nca_interp.model.tensors import check_size
from nca_interp.overrides import parse

TRIED_BYTES = 4 * 2**30
"""A checkpoint of at most so many bytes is opened, and trained on for one step, before anything is written."""
TRIAL_TOKENS, TRIAL_VOCABULARY = 16, 32
TOLERANCE = 1e-4
"""Largest difference between equal results, as a share of the largest entry (fp32)."""
SHAPE = ("n_layers", "d_model", "n_heads", "head_width", "d_mlp", "rope_base", "tied")
"""Fields of `model` that a study and its checkpoint have to agree in; n_ctx may be shorter, init_std another."""


class Parent(NamedTuple):
    """What a checkpoint is."""

    directory: Path
    model: ModelConfig
    """Its description, with the whole of its context."""
    class_name: str
    """Of transformers."""


def parent_of(place: str) -> Parent:
    """What the checkpoint in a directory, or of a name on the hub, is; its weights are not read.

    UserError for what is no checkpoint, for pickled or quantised weights, a model that is no single causal language
    model, one without attention, and for tensors whose part in it is not recognised.
    """
    directory = Source.find(place).directory
    check_directory(directory)
    config = load_config(directory)
    _check_kind(directory, config)
    check_size(directory, config)
    meta = _without_weights(config)
    with naming(directory):
        kinds = kinds_of(meta)
    body = sum(p.numel() for name, p in meta.named_parameters() if kinds[name] != "embed")
    shape = _shape(config)
    even = (shape["d_head"] or shape["d_model"] // shape["n_heads"]) % 2 == 0
    plain = parse(ModelConfig, shape) if config.model_type == "llama" and even else None
    if plain is not None and _is_ours(config, plain):
        return Parent(directory, plain, type(meta).__name__)
    architecture = Architecture(config=fields_of(config), n_params_body=body)
    return Parent(directory, parse(ModelConfig, {**shape, "architecture": architecture}), type(meta).__name__)


@contextmanager
def naming(place: Path | str) -> Iterator[None]:
    """Errors inside begin with what they are about."""
    try:
        yield
    except UserError as error:
        raise error if str(error).startswith(str(place)) else UserError(f"{place}: {error}") from None


def _check_kind(directory: Path, config: Any) -> None:
    from transformers import AutoModelForCausalLM

    method = getattr(config, "quantization_config", None)
    if method is not None:
        name = method.get("quant_method") if isinstance(method, dict) else getattr(method, "quant_method", method)
        raise UserError(
            f"{directory}: quantised weights ({getattr(name, 'value', name)}), which cannot be trained; give the unquantised checkpoint, or "
            "save it unpacked: model.dequantize().save_pretrained(...)"
        )
    if config.get_text_config() is not config:
        raise UserError(
            f"{directory}: {config.model_type} is put together of several models; save its language model alone"
        )
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise UserError(f"{directory}: architecture {config.model_type!r} is not a causal language model")
    if not getattr(config, "num_attention_heads", 0):
        raise UserError(f"{directory}: {config.model_type} has no attention heads; legal: models with attention")


def _without_weights(config: Any) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    told = border("no model can be built of its config.json", config.model_type)
    with told, torch.device("meta"), no_init_weights():
        return AutoModelForCausalLM.from_config(config)


def _shape(config: Any) -> dict[str, Any]:
    """The fields of a ModelConfig, but its architecture."""
    width, heads = int(config.hidden_size), int(config.num_attention_heads)
    head = int(getattr(config, "head_dim", None) or width // heads)
    hidden = next((v for n in ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size") if isinstance(v := getattr(config, n, None), int)), 4 * width)  # fmt: skip
    rotary = getattr(config, "rope_parameters", None) or {}
    std = getattr(config, "initializer_range", None) or getattr(config, "init_std", 0.02)
    return {
        "n_layers": int(config.num_hidden_layers),
        "d_model": width,
        "n_heads": heads,
        "d_head": None if head * heads == width else head,
        "d_mlp": hidden,
        "n_ctx": context_length(config),
        "rope_base": float(rotary.get("rope_theta", 10_000.0)),
        "tied": bool(config.tie_word_embeddings),
        "init_std": std,
        "embed_std": std,
    }


def _is_ours(config: Any, plain: ModelConfig) -> bool:
    """Whether a Llama is what the project's own description builds."""
    built, there = (fields_of(c, changed=False) for c in (hf_config(plain, config.vocab_size), config))
    return {k: v for k, v in built.items() if k in there} == {k: v for k, v in there.items() if k in built}


def check_parents(study: Study) -> None:
    """UserError where a checkpoint that a regime starts from is no such thing, or of another shape than the study's model.

    One of at most TRIED_BYTES is opened whole, and trained for a step on tokens of no meaning.
    """
    tried: set[str] = set()
    for regime in study.regimes:
        for place in regime.source.paths if isinstance(regime.source, CheckpointSpec) else ():
            if place not in tried:
                tried.add(place)
                with naming(f"regimes.{regime.name}.source: {place}"):
                    _check_parent(study.model, place)
        if isinstance(regime.source, CheckpointSpec):
            with naming(f"regimes.{regime.name}.graft"):
                _check_graft(study.model, regime.graft)


def _check_parent(model: ModelConfig, place: str) -> None:
    from nca_interp.model.swap import swap

    found = parent_of(place)
    check_shape(model, found.model)
    if sum(file.stat().st_size for file in found.directory.glob("*.safetensors")) <= TRIED_BYTES:
        parent = open_parent(place)
        with border("it cannot be trained as a causal language model", type(parent).__name__):
            check_causal(parent)
            check_trains(swap(parent, model, TRIAL_VOCABULARY, 0)[0], TRIAL_VOCABULARY)


def _check_graft(model: ModelConfig, graft: Graft) -> None:
    """UserError where a graft names what the tensors of this family do not tell apart."""
    meta = _without_weights(hf_config(model, 1) if model.architecture is None else family_config(model, 1))
    heads = graft.heads if isinstance(graft.heads, tuple) and graft.matched is None else ()
    for pieces in pieces_of(meta).values():
        for piece in pieces:
            piece.replaced(graft, heads, Geometry.of(meta.config))


def check_shape(model: ModelConfig, found: ModelConfig) -> None:
    """UserError, with both values, where a study's model is not that of its checkpoint."""
    wrong: list[tuple[str, Any, Any]] = []
    here, there = (fields(one)["model_type"] for one in (model, found))
    if here != there:
        wrong.append(("architecture.config.model_type", here, there))
    wrong += [(n, getattr(model, n), getattr(found, n)) for n in SHAPE if getattr(model, n) != getattr(found, n)]
    if model.n_ctx > found.n_ctx:
        wrong.append(("n_ctx", model.n_ctx, found.n_ctx))
    if not wrong and model.architecture != found.architecture:
        ours, theirs = (fields(one) for one in (model, found))
        wrong = [(f"architecture.config.{k}", ours.get(k), theirs.get(k)) for k in sorted(ours.keys() | theirs.keys()) if ours.get(k) != theirs.get(k)]  # fmt: skip
        wrong = wrong or [("architecture", model.architecture, found.architecture)]
    if wrong:
        told = "; ".join(
            f"model.{name.replace('head_width', 'd_head')} is {here!r} in the study, {there!r} in the checkpoint"
            for name, here, there in wrong
        )
        raise UserError(f"{told}; legal: the checkpoint's (n_ctx: or less)")


def fields(model: ModelConfig) -> dict[str, Any]:
    """Of its architecture; of the project's own Llama that which transformers is told."""
    return fields_of(hf_config(model, 1)) if model.architecture is None else model.architecture.config


def open_parent(place: str) -> Any:
    """The model of a checkpoint, in fp32 on the CPU, in evaluation mode."""
    return load_model(Source.find(place).directory)


@torch.no_grad()
def check_causal(model: Any) -> None:
    """UserError unless what comes later leaves what comes before it as it was."""
    first = _trial(model.config.vocab_size, min(TRIAL_TOKENS, context_length(model.config)))
    second = first.clone()
    half = first.shape[1] // 2
    second[:, half:] = first[:, half:].flip(1)
    one, other = (model(input_ids=rows, use_cache=False).logits for rows in (first, second))
    if not _alike(one[:, :half], other[:, :half], float(one.abs().max())):
        raise UserError(
            f"{type(model).__name__}: tokens that come later change what it computes before them: it is not a causal language model "
            "(a masked or bidirectional one?) and cannot be trained as one"
        )


def check_trains(model: Any, vocab_size: int) -> None:
    """UserError unless training it is a function of weights and tokens alone, and reaches its weights."""
    rows = _trial(vocab_size, min(TRIAL_TOKENS, context_length(model.config)))
    model.train()
    losses = []
    with training_forward(model, "fp32"):
        for _ in range(2):
            model.zero_grad(set_to_none=True)
            loss = model(rows[:, :-1], rows[:, 1:])
            loss.backward()
            losses.append(float(loss.detach()))
    if losses[0] != losses[1]:
        raise UserError(
            f"{type(model).__name__}: in training it gives another loss each time; something in it is random"
        )
    if lost := [name for name, p in model.named_parameters() if p.grad is None]:
        raise UserError(f"{type(model).__name__}: the loss does not reach the tensor {lost[0]}; it cannot be trained")


def _trial(vocab_size: int, length: int) -> torch.Tensor:
    """Rows of ordinary tokens [2, length]."""
    return torch.randint(vocab_size, (2, length), generator=torch.Generator().manual_seed(0))


def _alike(one: torch.Tensor, other: torch.Tensor, scale: float) -> bool:
    return float((one - other).abs().max()) <= TOLERANCE * scale


def forward_words(model: ModelConfig) -> str:
    """By which code a network is trained; empty for the fast pass."""
    from nca_interp.model.fast import is_fast

    if model.architecture is None or is_fast(family_config(model, 1)):
        return ""
    return f"the own forward pass of {model.architecture.model_type} in transformers (slower than the fast one, which is Llama's; not compiled)"
