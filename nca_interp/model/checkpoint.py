"""The one door to a checkpoint: plain Hugging Face directories, safetensors only, never a pickle, never remote code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer

from nca_interp.base import UserError
from nca_interp.borders import border
from nca_interp.data.specs import END, PAD
from nca_interp.model.folder import check_directory as check_directory
from nca_interp.model.tensors import (
    WEIGHTS,
    check_finite,
    check_layers,
    check_size,
    check_tensors,
    read_headers,
)
from nca_interp.store import commit_dir, read_json, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROVENANCE = "provenance.json"


def save_model(
    model: PreTrainedModel, directory: Path, provenance: dict[str, Any], tokenizer: Path | None,
    weights: dict[str, torch.Tensor] | None = None,
) -> Path:  # fmt: skip
    """Commit a Hugging Face directory (config.json, model.safetensors, tokenizer, provenance.json, MANIFEST.json).

    `weights` are the model's where its own are sharded.
    """

    from transformers.utils import logging

    logging.disable_progress_bar()

    def write(temporary: Path) -> None:
        model.save_pretrained(temporary, state_dict=weights)
        if tokenizer is not None:
            _write_tokenizer(tokenizer, temporary)
        write_json(temporary / PROVENANCE, provenance)

    return commit_dir(directory, write)


def _write_tokenizer(source: Path, directory: Path) -> None:
    """Copy tokenizer.json, say which class opens it, so that `AutoTokenizer.from_pretrained` needs nothing of ours, and
    name its tokens for the end of a text, its beginning and padding in all three configurations."""
    shutil.copyfile(source, directory / "tokenizer.json")
    named = _named_tokens(source)
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    write_json(directory / "tokenizer_config.json", config | {f"{k}_token": text for k, (_, text) in named.items()})
    for name in ("config.json", "generation_config.json"):
        if (path := directory / name).is_file():
            write_json(path, read_json(path) | {f"{k}_token_id": index for k, (index, _) in named.items()})


def _named_tokens(tokenizer: Path) -> dict[str, tuple[int, str]]:
    """Id and text of the tokens eos, bos and pad: those in meta.json of the token directory, else special tokens of our
    own names."""
    meta = tokenizer.with_name("meta.json")
    stored = read_json(meta) if meta.is_file() else {}
    added = json.loads(tokenizer.read_text(encoding="utf-8")).get("added_tokens", [])
    ours = {token["content"]: token["id"] for token in added if token.get("special")}
    ids = {"eos": stored.get("end_id"), "bos": stored.get("bos_id"), "pad": stored.get("pad_id")}
    ids = {"eos": ours.get(END), "pad": ours.get(PAD)} | {k: index for k, index in ids.items() if index is not None}
    texts = {token["id"]: token["content"] for token in added}
    if not {index for index in ids.values() if index is not None} <= texts.keys():
        texts = {index: text for text, index in Tokenizer.from_file(str(tokenizer)).get_vocab().items()}
    return {name: (index, texts[index]) for name, index in ids.items() if index is not None}


def load_model(directory: Path | str, *, attn: str = "sdpa", dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Open any local Hugging Face causal language model, in evaluation mode on the CPU.

    `attn` is "sdpa" (which a family without it has in eager mode), "eager" or a registered attention function. Raises UserError where the directory is missing or
    damaged, holds only pickled weights, is not a causal language model that transformers knows, or where its tensors are
    not exactly those of the model that config.json describes, all of them finite.
    """
    from transformers import AutoModelForCausalLM

    directory = Path(directory)
    check_directory(directory)
    headers = read_headers(directory)
    config = load_config(directory)
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise UserError(f"{directory}: architecture {config.model_type!r} is not a causal language model")
    check_size(directory, config)
    _check_generation(directory)
    with border("the weights do not load", directory), _quiet():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            config=config,
            attn_implementation=_supported(attn, config),
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # check_tensors names them
            output_loading_info=True,
        )
        model, info = loaded
        check_tensors(directory, model, info, headers)
    check_finite(directory, model.named_parameters())
    return model.eval()


def _supported(attn: str, config: Any) -> str:
    """`attn`, or "eager" where a family has no "sdpa" (a recurrent one, for example)."""
    from transformers import AutoModelForCausalLM

    found: Any = AutoModelForCausalLM._model_mapping[type(config)]
    kinds = found if isinstance(found, (tuple, list)) else (found,)
    return "eager" if attn == "sdpa" and not all(kind._supports_sdpa for kind in kinds) else attn


def _check_generation(directory: Path) -> None:
    """UserError for a damaged generation_config.json, which transformers reads with the weights."""
    if (file := directory / "generation_config.json").is_file():
        with border("not readable as JSON", file):
            found = read_json(file)
        if not isinstance(found, dict):
            raise UserError(
                f"{file}: a {type(found).__name__}, where an object is expected; remove it, or copy the checkpoint again"
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bar and no load report of transformers: what they would say is raised."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def load_config(directory: Path) -> Any:
    """The Hugging Face configuration in a checkpoint directory; UserError where transformers does not know it."""
    from transformers import AutoConfig

    file = directory / "config.json"
    with border("not readable as JSON", file):
        fields = read_json(file)
    if not isinstance(fields, dict):
        raise UserError(f"{file}: a {type(fields).__name__}, where an object with the fields of a model is expected")
    check_layers(file, fields, read_headers(directory))
    _check_fields(file, fields)
    with border("not a model that transformers knows", file):
        return AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)


def _check_fields(file: Path, fields: dict[str, Any]) -> None:
    """UserError for fields by which transformers would read other weights than ours, or read them wrongly."""
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    if fields.get("transformers_weights") is not None:
        raise UserError(
            f"{file}: transformers_weights: {fields['transformers_weights']!r}; legal: none, {WEIGHTS} is read"
        )
    method = fields.get("quantization_config")
    method = method.get("quant_method") if isinstance(method, dict) else None
    if method is not None and method not in (*AUTO_QUANTIZATION_CONFIG_MAPPING, "bitsandbytes"):
        raise UserError(
            f"{file}: quantization_config: quant_method {method!r} is not read by transformers, which would take the packed "
            "numbers for weights; use the unquantised checkpoint"
        )


def read_provenance(directory: Path | str) -> dict[str, Any]:
    """Our provenance.json of a checkpoint; empty for checkpoints that others made."""
    path = Path(directory) / PROVENANCE
    if not path.is_file():
        return {}
    with border("not readable as JSON", path):
        found = read_json(path)
    if not isinstance(found, dict):
        raise UserError(
            f"{path}: a {type(found).__name__}, where an object is expected; remove it, or copy the checkpoint again"
        )
    return found
