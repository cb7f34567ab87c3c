"""How many tokens a named Hugging Face tokenizer has, as far as this machine knows before it is loaded."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

GPT2 = ("gpt2", "openai-community/gpt2")
GPT2_VOCAB = 50_257
ASSUMED = GPT2_VOCAB
"""Taken where nothing is known."""


@lru_cache(maxsize=32)
def known_vocabulary(name: str) -> int | None:
    """Tokens of a tokenizer (a folder, or a name of the hub that was used here before), or None: not known offline."""
    if (file := _file(name)) is not None:
        try:
            return _count(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # damaged: refused where it is loaded
            return None
    if Path(name).is_dir():
        return _loaded(name)
    return GPT2_VOCAB if name in GPT2 else None


def _file(name: str) -> Path | None:
    folder = Path(name)
    if folder.is_dir():
        return folder / "tokenizer.json" if (folder / "tokenizer.json").is_file() else None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(name, "tokenizer.json")
    except HFValidationError:
        return None
    return Path(cached) if isinstance(cached, str) else None


def _count(settings: dict[str, Any]) -> int:
    """One more than the largest id: what a tokenizer.json needs of an embedding."""
    vocabulary = settings["model"]["vocab"]
    ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    return max(max(ids, default=-1), max((t["id"] for t in settings.get("added_tokens", [])), default=-1)) + 1


def _loaded(name: str) -> int | None:
    """Of a folder with other files, e.g. vocab.json and merges.txt."""
    from transformers import AutoTokenizer

    try:
        loaded: Any = AutoTokenizer.from_pretrained(name, local_files_only=True, trust_remote_code=False)
    except Exception:  # whatever is wrong is said where the tokens are made
        return None
    return max(loaded.get_vocab().values()) + 1
