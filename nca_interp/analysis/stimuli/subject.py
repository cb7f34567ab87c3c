"""What stimuli need to know of a checkpoint: vocabulary, context, special tokens, rows of its own data."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nca_interp.analysis.stimuli.base import Subject, rows_of_text
from nca_interp.base import UserError

LONGEST = 512
"""Natural text for models of others is cut to this many tokens (and to their context)."""


class Rows(NamedTuple):
    """Validation rows in a checkpoint's vocabulary and where they come from."""

    rows: np.ndarray
    spec: dict[str, Any]
    vocab_size: int
    name: str


def describe(
    directory: Path,
    config: Any,
    provenance: dict[str, Any],
    tokens_dir: Path | None = None,
    tokenizer: Path | None = None,
) -> Subject:
    """The subject of a checkpoint directory with Hugging Face `config` and our provenance (empty for others' models).

    Rows come from `tokens_dir`, else from the token file that its provenance names, else from a built-in English text
    in the tokens of `tokenizer`, or of the checkpoint's own tokenizer.json. Raises UserError for a token file of
    another vocabulary.
    """
    text = config.get_text_config()
    vocab_size, n_ctx = int(text.vocab_size), context_length(text)
    found = _token_rows(directory, provenance, tokens_dir)
    if found is not None and found.vocab_size > vocab_size:
        raise UserError(
            f"{found.name}: a vocabulary of {found.vocab_size} tokens; the model in {directory} has {vocab_size}; give its own tokens"
        )
    own_tokenizer = tokenizer or (directory if (directory / "tokenizer.json").is_file() else None)
    if found is None and own_tokenizer is not None:
        rows = rows_of_text(own_tokenizer, min(n_ctx, LONGEST) + 1)
        found = Rows(rows, {"kind": "text"}, vocab_size, "the Python language reference")
    specials = _specials(found.spec if found else {}, vocab_size, own_tokenizer, text)
    bos = getattr(text, "bos_token_id", None)
    return Subject(
        name=str(directory),
        vocab_size=found.vocab_size if found else vocab_size,
        n_ctx=n_ctx,
        specials=frozenset(specials),
        bos=bos if isinstance(bos, int) and 0 <= bos < vocab_size else None,
        rows=found.rows if found else None,
        spec=found.spec if found else provenance.get("meta", {}).get("spec"),
        rows_from=found.name if found else "",
    )


def context_length(config: Any) -> int:
    """Longest sequence a Hugging Face text configuration allows; 2048 where it names none."""
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_target_positions"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return 2048


def _token_rows(directory: Path, provenance: dict[str, Any], tokens_dir: Path | None) -> Rows | None:
    if tokens_dir is not None:
        return open_rows(Path(tokens_dir).resolve())
    named = provenance.get("tokens_dir")
    if not named:
        return None
    # relative to the study, which is some folder above the checkpoint
    places = [Path(named)] if Path(named).is_absolute() else [parent / named for parent in directory.resolve().parents]
    for place in places:
        if (place / "meta.json").is_file():
            return open_rows(place)
    return None


@lru_cache(maxsize=32)
def open_rows(directory: Path) -> Rows:
    """Validation rows of a token directory (kept open: a run's checkpoints share it)."""
    from nca_interp.data.tokens import TokenFile

    file = TokenFile.open(directory)
    spec: Any = file.meta.spec
    spec = spec if isinstance(spec, dict) else spec.model_dump(mode="json")
    return Rows(file.val, spec, int(file.meta.vocab_size), directory.name)


def _specials(spec: dict[str, Any], vocab_size: int, tokenizer: Path | None, config: Any) -> set[int]:
    if spec.get("kind") == "nca":
        return {vocab_size - 2, vocab_size - 1}
    found = {getattr(config, f"{name}_token_id", None) for name in ("bos", "eos", "pad")}
    ids = {i for value in found for i in (value if isinstance(value, list) else [value]) if isinstance(i, int)}
    if tokenizer is not None:
        file = tokenizer / "tokenizer.json" if tokenizer.is_dir() else tokenizer
        ids |= {
            t["id"] for t in json.loads(file.read_text(encoding="utf-8")).get("added_tokens", []) if t.get("special")
        }
    return ids
