"""The tensors of a checkpoint against the model that its config.json describes: none left over, none lacking, all finite."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch

from nca_interp.base import UserError
from nca_interp.borders import border
from nca_interp.files import read_json

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
LAYERS = re.compile(r"(num_(hidden_)?|n_|decoder_|encoder_)layers?")
MANY_LAYERS = 1000
"""More layers than these are believed only where the file has as many tensors: each takes time and memory to set up."""
FLOATS = ("F", "BF")
"""How the types of floating point numbers begin (F32, F8_E4M3, BF16)."""
PACKED = 8
"""Weights that one byte of a quantised file may hold (one bit each)."""


class Header(NamedTuple):
    """What a file says of one tensor."""

    shape: tuple[int, ...]
    dtype: str
    """As safetensors writes it: F32, BF16, I64, BOOL ..."""


class Harmless(NamedTuple):
    """Tensors that old checkpoints hold and that no number depends on."""

    name: re.Pattern[str]
    reason: str
    known_by: Callable[[Header], bool]


HARMLESS = (
    Harmless(
        re.compile(r"rotary_emb\.(inv_freq|cos_cached|sin_cached)$"),
        "rotary frequencies: computed from config.json",
        lambda tensor: tensor.dtype.startswith(("F", "BF")),
    ),
    Harmless(
        re.compile(r"(attn|attention)\.bias$"),
        "a causal mask: always the lower triangle",
        lambda tensor: len(tensor.shape) == 4 and tensor.shape[:2] == (1, 1) and tensor.shape[2] == tensor.shape[3],
    ),
    Harmless(
        re.compile(r"(attn|attention)\.masked_bias$"),
        "the score of a masked key: any that vanishes in the softmax",
        lambda tensor: tensor.shape in ((), (1,)),
    ),
    Harmless(
        re.compile(r"(^|\.)position_ids$"),
        "the numbers 0, 1, 2, ...",
        lambda tensor: tensor.dtype in ("I32", "I64"),
    ),
)
"""Beside these, what the model's class in transformers lists itself (heads that predict further tokens, for example), and an
output matrix equal to the embedding that it is tied to."""


def read_headers(directory: Path) -> dict[str, Header]:
    """Names, shapes and types of the tensors of a checkpoint, of all its shards; no values are read."""
    from safetensors import safe_open

    found: dict[str, Header] = {}
    for file in weight_files(directory):
        with border("truncated or damaged", file), safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (no mapping)
                part = opened.get_slice(name)
                found[name] = Header(tuple(part.get_shape()), part.get_dtype())
    return found


def weight_files(directory: Path) -> list[Path]:
    """The files that hold the weights: one, or the shards of an index, all inside `directory`."""
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    index = directory / INDEX
    if not index.is_file():
        other = sorted(path.name for path in directory.glob("*.safetensors"))
        raise UserError(f"{directory}: neither {WEIGHTS} nor {INDEX} in it (but {', '.join(other)})")
    with border("not readable as JSON", index):
        listing = read_json(index)
    places = listing.get("weight_map") if isinstance(listing, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
        raise UserError(f"{index}: no weight_map from the name of each tensor to its file")
    names = sorted(set(places.values()))
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or path.suffix != ".safetensors":
            raise UserError(f"{index}: weight_map: {name!r}; legal: a .safetensors file inside the folder")
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise UserError(f"{directory}: {len(missing)} of {len(names)} weight files are missing, e.g. {missing[0]}")
    return [directory / name for name in names]


def check_layers(file: Path, config: Any, headers: dict[str, Header]) -> None:
    """UserError for a number of layers in the parsed config.json that the file cannot hold (nested configurations too)."""
    for key, value in config.items():
        if isinstance(value, dict):
            check_layers(file, value, headers)
        elif LAYERS.fullmatch(key) and isinstance(value, int | float) and value > max(MANY_LAYERS, len(headers)):
            raise UserError(f"{file}: {key}: {value}, but the weights hold {len(headers)} tensors")


def check_size(directory: Path, config: Any) -> None:
    """UserError where `config` describes a model of more weights than the files can hold: opening it could take all memory."""
    from copy import deepcopy

    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    described = deepcopy(config)
    described.quantization_config = None
    with border("config.json describes no model that can be built", directory), torch.device("meta"), no_init_weights():
        model = AutoModelForCausalLM.from_config(described, attn_implementation="eager")
        weights = sum(parameter.numel() for parameter in model.parameters())
    size = sum(file.stat().st_size for file in weight_files(directory))
    if weights > size * (PACKED if getattr(config, "quantization_config", None) else 1):
        raise UserError(
            f"{directory}: config.json describes a model of {weights:,} weights; the weight files have {size:,} bytes"
        )


def check_tensors(directory: Path, model: Any, info: dict[str, Any], headers: dict[str, Header]) -> None:
    """UserError naming tensors that are missing, of another shape or kind, or not used by the model (`info`: of from_pretrained)."""
    if missing := sorted(info["missing_keys"]):
        raise UserError(f"{directory}: {len(missing)} tensors are missing from the weights, e.g. {missing[0]}")
    for name, there, wanted in sorted(info["mismatched_keys"]):
        raise UserError(
            f"{directory}: tensor {name} has the shape {list(there)} in the weights, {list(wanted)} by config.json"
        )
    if unused := sorted(name for name in info["unexpected_keys"] if not _harmless(name, headers)):
        raise UserError(
            f"{directory}: {_listed(unused)} in the weights have no place in {type(model).__name__} as config.json describes "
            "it: without them this would be another model; correct config.json, or remove them from the weights"
        )
    _check_types(directory, model, headers)
    for target, source in model.get_expanded_tied_weights_keys(all_submodels=True).items():
        first, second = model.get_parameter(target), model.get_parameter(source)
        if first is not second and not torch.equal(first, second):
            raise UserError(
                f"{directory}: config.json ties {target} to {source} (tie_word_embeddings), but they differ in the weights; "
                "set it to false if both are meant, or remove the one that is not from the weights"
            )


def _check_types(directory: Path, model: Any, headers: dict[str, Header]) -> None:
    """UserError for whole numbers, truth values or complex numbers where the model has weights: read as numbers, the packed ones of
    a quantised file would be measured as if they were weights."""
    if getattr(model.config, "quantization_config", None):
        return
    others = tuple(name for name, buffer in model.named_buffers() if not buffer.is_floating_point())
    packed = sorted(n for n, t in headers.items() if not t.dtype.startswith(FLOATS))
    if wrong := [name for name in packed if not _harmless(name, headers) and not (others and name.endswith(others))]:
        raise UserError(
            f"{directory}: {_listed(wrong)} in the weights {'are' if len(wrong) > 1 else 'is'} of type {headers[wrong[0]].dtype}, no "
            "floating point numbers, and config.json has no quantization_config that says what they mean; use the unquantised checkpoint"
        )


def _harmless(name: str, headers: dict[str, Header]) -> bool:
    tensor = headers.get(name)
    return tensor is not None and any(kind.name.search(name) and kind.known_by(tensor) for kind in HARMLESS)


def _listed(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more tensors" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def check_finite(directory: Path, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """UserError naming the first tensor that holds NaN or infinity, and how many do."""
    bad = [(name, tensor) for name, tensor in tensors if not _finite(tensor)]
    if not bad:
        return
    name, tensor = bad[0]
    values = tensor.float()
    nan, infinite = int(values.isnan().sum()), int(values.isinf().sum())
    more = f", and {len(bad) - 1} tensors more hold such values" if len(bad) > 1 else ""
    raise UserError(
        f"{directory}: the weights are not finite: {name} holds {nan:,} NaN and {infinite:,} infinite of "
        f"{values.numel():,} values (as {str(tensor.dtype).removeprefix('torch.')}){more}"
    )


def _finite(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # NaN and infinity stay in a sum, which reads memory at its speed; a sum of finite values that overflows is looked at again
    wide = tensor.detach().float() if tensor.element_size() == 1 else tensor.detach()  # float8 has no sum
    return bool(wide.sum(dtype=torch.float32).isfinite()) or bool(wide.isfinite().all())
