"""The one door to a checkpoint: plain Hugging Face directories, safetensors only, never a pickle, never remote code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer

from nca_interp.base import UserError
from nca_interp.data.specs import END, PAD
from nca_interp.store import MANIFEST, commit_dir, damage, read_json, write_json

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

    `attn` is "sdpa", "eager" or a registered attention function. Raises UserError where the directory is missing or
    damaged, holds only pickled weights, or is not a causal language model that transformers knows.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    directory = Path(directory)
    check_directory(directory)
    logging.disable_progress_bar()
    config = load_config(directory)
    known = AutoModelForCausalLM._model_mapping
    if type(config) not in known:
        raise UserError(f"{directory}: architecture {config.model_type!r} is not a causal language model")
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            config=config,
            attn_implementation=attn,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"{directory}: the weights do not load ({_first(error)})") from None
    except Exception as error:
        if type(error).__module__.startswith("safetensors") or type(error).__name__ == "SafetensorError":
            raise UserError(f"{directory}: model.safetensors is truncated or damaged ({_first(error)})") from None
        raise
    model, info = loaded
    missing = sorted(info.get("missing_keys", ()))
    if missing:
        raise UserError(f"{directory}: {len(missing)} tensors are missing from the weights, e.g. {missing[0]}")
    return model.eval()


def load_config(directory: Path) -> Any:
    """The Hugging Face configuration in a checkpoint directory; UserError where transformers does not know it."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{directory}: config.json is not a model that transformers knows ({_first(error)})") from None


def check_directory(directory: Path) -> None:
    """Raise UserError unless `directory` looks like a whole checkpoint with safetensors weights."""
    if not directory.is_dir():
        raise UserError(f"{directory}: no such checkpoint directory")
    if not (directory / "config.json").is_file():
        raise UserError(f"{directory}: no config.json in it; expected a Hugging Face checkpoint directory")
    if not any(directory.glob("*.safetensors")):
        pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in directory.glob(pattern))
        if pickles:
            raise UserError(f"{directory}: only pickled weights ({pickles[0]}); refused, convert them to safetensors")
        raise UserError(f"{directory}: no *.safetensors weights in it")
    if (directory / MANIFEST).is_file() and (problem := damage(directory)):
        raise UserError(f"{directory}: damaged checkpoint, {problem}")


def read_provenance(directory: Path | str) -> dict[str, Any]:
    """Our provenance.json of a checkpoint; empty for checkpoints that others made."""
    path = Path(directory) / PROVENANCE
    return json.loads(path.read_text()) if path.is_file() else {}


def _first(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0][:200]
