"""What stimuli need to know of a checkpoint: vocabulary, context, special tokens, rows of natural text."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nca_interp.analysis.stimuli.base import Subject
from nca_interp.analysis.stimuli.size import SHOWN, is_large
from nca_interp.analysis.stimuli.text import read_text, rows_of, sample_text
from nca_interp.analysis.stimuli.vocabulary import read_vocabulary
from nca_interp.base import UserError
from nca_interp.data.specs import SYNTHETIC_KINDS
from nca_interp.data.text.tokenizer import has_tokenizer
from nca_interp.model.roles import context_length as context_length

LONGEST = 512
"""Natural text for models of others is cut to this many tokens (and to their context)."""


class Rows(NamedTuple):
    """Natural text in a checkpoint's vocabulary and where it comes from."""

    rows: np.ndarray
    spec: dict[str, Any]
    vocab_size: int
    name: str
    sha256: str
    directory: Path | None = None
    """The token directory; None for text tokenised here."""


def describe(
    directory: Path,
    config: Any,
    provenance: dict[str, Any],
    tokens_dir: Path | None = None,
    tokenizer: Path | None = None,
) -> Subject:
    """The subject of a checkpoint directory with Hugging Face `config` and our provenance (empty for others' models).

    Rows come from `tokens_dir`, a token directory or a file of text in UTF-8; else from the token file that its provenance
    names, else from a built-in English text. Text is cut into the tokens of `tokenizer`, or of the checkpoint's own. The
    tokenizer also says which ids are tokens of text and how a text begins; rows of our own models begin as they did in
    training. Raises UserError for a token file of another vocabulary, and for a text without a tokenizer.
    """
    text = config.get_text_config()
    vocab_size, n_ctx = int(text.vocab_size), context_length(text)
    trained: dict[str, Any] = provenance.get("meta", {})
    own_text = None if tokens_dir is None or not tokens_dir.is_file() else read_text(tokens_dir)
    found = _token_rows(directory, provenance, tokens_dir) if own_text is None else None
    if found is not None and found.vocab_size > vocab_size:
        raise UserError(
            f"{found.name}: a vocabulary of {found.vocab_size} tokens; the model in {directory} has {vocab_size}; give its own tokens"
        )
    # an embedding may have more rows than there are tokens
    vocab_size = found.vocab_size if found else trained.get("vocab_size", vocab_size)
    own_tokenizer = _tokenizer(directory, found, tokenizer)
    if own_text is not None and own_tokenizer is None:
        raise UserError(f"{tokens_dir}: {directory} has no tokenizer that cuts it into tokens; give --tokenizer")
    if found is None and own_tokenizer is not None:
        shown = own_text or sample_text()
        rows = rows_of(shown, own_tokenizer, min(n_ctx, LONGEST) + 1)
        found = Rows(rows, {"kind": "text"}, vocab_size, shown.name, shown.sha256)
    spec = found.spec if found else trained.get("spec")
    known = None if own_tokenizer is None else read_vocabulary(own_tokenizer)
    unknown = frozenset() if known is None else frozenset(range(vocab_size)) - known.ordinary
    return Subject(
        name=str(directory),
        vocab_size=vocab_size,
        n_ctx=n_ctx,
        specials=unknown | _specials(spec or {}, vocab_size, text),
        prefix=() if known is None or provenance else known.prefix,
        rows=found.rows if found else None,
        spec=spec,
        rows_from=found.name if found else "",
        rows_sha256=found.sha256 if found else "",
        tokenizer=own_tokenizer,
        own=bool(provenance),
        shown=SHOWN if not provenance and is_large(config) else None,
    )


def _tokenizer(directory: Path, found: Rows | None, given: Path | None) -> Path | None:
    """The tokenizer of the rows: none for synthetic ones, else the one `given`, the checkpoint's, or the token file's."""
    if found is not None and found.spec.get("kind") in SYNTHETIC_KINDS:
        return None
    places = [directory] if found is None or found.directory is None else [directory, found.directory]
    return given or next((place for place in places if has_tokenizer(place)), None)


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
    name = f"the token directory {directory.name}"
    return Rows(file.val, spec, int(file.meta.vocab_size), name, file.meta.sha256["val.bin"], directory)


def _specials(spec: dict[str, Any], vocab_size: int, config: Any) -> set[int]:
    if spec.get("kind") == "nca":
        return {vocab_size - 2, vocab_size - 1}
    found = {getattr(config, f"{name}_token_id", None) for name in ("bos", "eos", "pad")}
    return {i for value in found for i in (value if isinstance(value, list) else [value]) if isinstance(i, int)}
