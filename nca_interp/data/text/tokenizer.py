"""The one door to a tokenizer of others: a file, a folder of any usual kind, a token directory, or a name on the hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from nca_interp.base import UserError
from nca_interp.borders import border
from nca_interp.files import read_json

FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "tokenizer_config.json")
LEGAL = (
    "legal: a tokenizer.json, a sentencepiece .model, a token directory of `nca-interp data prepare`, a folder with "
    "tokenizer.json, tokenizer.model, or vocab.json and merges.txt, or a name on the Hugging Face hub"
)
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
"""A tokenizer on the hub: name, or org/name."""
ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
"""What an end of text is called where no file says which token it is."""
LARGEST = 2**24
"""Ids are smaller than this: tables of all tokens are made."""
PROBE = "The  quick brown fox (12 of 345) naïvely jumped:\n\tif x != None: return [x]\n" * 2
"""Text on which a converted tokenizer must agree with sentencepiece."""


class Opened(NamedTuple):
    """A tokenizer, and the ids of the tokens that end a text, begin one and fill rows (None where nothing says which)."""

    tokenizer: Tokenizer
    end_id: int | None
    bos_id: int | None = None
    pad_id: int | None = None


def has_tokenizer(folder: Path) -> bool:
    """Whether `open_tokenizer` finds files of a tokenizer in a folder."""
    return any((folder / name).is_file() for name in FILES[:2]) or all((folder / name).is_file() for name in FILES[2:4])


def open_tokenizer(where: Path | str, field: str = "--tokenizer") -> Opened:
    """The tokenizer at a path or of a name, without truncation and padding; code in its folder is never run.

    Raises UserError naming the file (or the `field` that names it) where it is missing or damaged, or where its tokens
    would not be those of the original.
    """
    path = Path(where)
    if path.exists():
        with border("not a tokenizer that opens", path):
            opened = _open_file(path) if path.is_file() else _open_folder(path)
    elif HUB_NAME.fullmatch(str(where)) and path.suffix not in (".json", ".model"):
        with border("cannot be loaded (check the name and the network)", f"{field}: {str(where)!r}"):
            opened = _transformers(where)
    else:
        raise UserError(f"{field}: {str(where)!r} cannot be loaded: no such file or folder; {LEGAL}")
    if (top := max(opened.tokenizer.get_vocab(with_added_tokens=True).values(), default=0)) >= LARGEST:
        raise UserError(f"{where}: a token has the id {top:,}; legal: less than {LARGEST:,}")
    if getattr(opened.tokenizer.model, "dropout", None):  # merges left out at random, as in the training of some models
        opened.tokenizer.model.dropout = None
    opened.tokenizer.no_truncation()
    opened.tokenizer.no_padding()
    return opened


def _open_file(file: Path) -> Opened:
    if file.suffix == ".model":
        return _sentencepiece(file)
    if file.name in FILES[2:]:
        return _open_folder(file.parent)
    with border("not a tokenizer that the tokenizers library reads", file):
        tokenizer = Tokenizer.from_file(str(file))
    folder = file.parent if file.name == FILES[0] else None
    return Opened(tokenizer, _end(tokenizer, folder), *(_id(tokenizer, folder, name) for name in ("bos", "pad")))


def _open_folder(folder: Path) -> Opened:
    if (folder / "tokenizer.json").is_file():
        return _open_file(folder / "tokenizer.json")
    if not has_tokenizer(folder):
        raise UserError(f"{folder}: no tokenizer there; {LEGAL}")
    by_class = _by_class(folder)
    if (folder / "tokenizer.model").is_file():
        return _exact(folder / "tokenizer.model", by_class)
    if by_class is not None:
        return by_class
    with border("no byte-level BPE in vocab.json and merges.txt", folder):
        tokenizer: Any = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    if lacking := set(pre_tokenizers.ByteLevel.alphabet()) - set(tokenizer.get_vocab()):
        raise UserError(
            f"{folder}: vocab.json has no token for {len(lacking)} of the 256 bytes, so it is not of a byte-level BPE; "
            "add the tokenizer_config.json that names its class, or give a tokenizer.json"
        )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if ends := [end for end in ENDS if tokenizer.token_to_id(end) is not None]:
        tokenizer.add_special_tokens(ends)
    return Opened(tokenizer, _end(tokenizer, folder), *(_id(tokenizer, folder, name) for name in ("bos", "pad")))


def _by_class(folder: Path) -> Opened | None:
    """By the class that tokenizer_config.json names, else by that of the model in config.json where it opens these files."""
    for name, field in (("tokenizer_config.json", "tokenizer_class"), ("config.json", "model_type")):
        fields = read_json(folder / name) if (folder / name).is_file() else None
        if isinstance(fields, dict) and field in fields:
            try:
                with border("not a tokenizer that transformers opens", folder):
                    return _transformers(folder, local_files_only=True)
            except UserError:
                if field == "tokenizer_class":
                    raise
    return None


def _transformers(where: Path | str, **options: Any) -> Opened:
    from transformers import AutoTokenizer

    loaded: Any = AutoTokenizer.from_pretrained(where, trust_remote_code=False, **options)
    if not loaded.is_fast:
        raise UserError(f"{where}: {type(loaded).__name__} is not a fast tokenizer; choose one that is")
    ids = (None if one is None else int(one) for one in (loaded.eos_token_id, loaded.bos_token_id, loaded.pad_token_id))
    return Opened(Tokenizer.from_str(loaded.backend_tokenizer.to_str()), *ids)


def _exact(file: Path, by_class: Opened | None) -> Opened:
    """A sentencepiece model in the folder of a model. Where the model's class only adds tokens to its pieces, they are cut as
    sentencepiece cuts them (transformers leaves out the space before a text); else (shifted ids) as the class does."""
    if by_class is None:
        return _sentencepiece(file)
    try:
        own = _sentencepiece(file)
    except UserError:
        return by_class
    added = by_class.tokenizer.get_added_tokens_decoder()
    own.tokenizer.add_tokens([added[index] for index in sorted(added)])
    if own.tokenizer.get_vocab() != by_class.tokenizer.get_vocab():
        return by_class
    return by_class._replace(tokenizer=own.tokenizer, end_id=own.end_id if by_class.end_id is None else by_class.end_id)


def _sentencepiece(file: Path) -> Opened:
    """A sentencepiece model: pieces and merges as transformers extracts them, normalised as the model itself says."""
    with border("not a sentencepiece model", file):
        from sentencepiece import SentencePieceProcessor
        from transformers.convert_slow_tokenizer import SentencePieceExtractor, SpmConverter

        original = SentencePieceProcessor(model_file=str(file))
        extractor = SentencePieceExtractor(str(file))
        parts: Any = extractor.extract(None)
        tokenizer: Any = SpmConverter.build_tokenizer_from_spm_proto(
            extractor.proto, vocab=parts["vocab"], merges=parts.get("merges")
        )
        tokenizer.normalizer = _normalizer(extractor.proto.normalizer_spec)
        control = [piece.piece for piece in extractor.proto.pieces if piece.type == piece.CONTROL]
        tokenizer.add_special_tokens(control)
        ours, theirs = tokenizer.encode(PROBE, add_special_tokens=False).ids, original.encode(PROBE)
    if ours != theirs:
        raise UserError(
            f"{file}: converted, it gives other tokens than sentencepiece; save it as a tokenizer.json with the class of its "
            "model (AutoTokenizer.from_pretrained(...).save_pretrained(...)) and give that"
        )
    ids = (original.eos_id(), original.bos_id(), original.pad_id())
    return Opened(tokenizer, *(one if one >= 0 else None for one in ids))


def _normalizer(spec: Any) -> normalizers.Normalizer:
    """What sentencepiece does to a text before it looks for pieces (`NormalizerSpec` of its model)."""
    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(" "))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])


def _end(tokenizer: Tokenizer, folder: Path | None) -> int | None:
    """The id of the end of text: what the folder says, else by its usual name."""
    if (told := _id(tokenizer, folder, "eos")) is not None:
        return told
    return next((found for end in ENDS if (found := tokenizer.token_to_id(end)) is not None), None)


def _id(tokenizer: Tokenizer, folder: Path | None, name: str) -> int | None:
    """The id of the eos, bos or pad token by the meta.json of a token directory, tokenizer_config.json or config.json."""
    for file, field in (("meta.json", f"{'end' if name == 'eos' else name}_id"), ("tokenizer_config.json", f"{name}_token"), ("config.json", f"{name}_token_id")):  # fmt: skip
        if folder is None or not (folder / file).is_file():
            continue
        fields = read_json(folder / file)
        token = fields.get(field) if isinstance(fields, dict) else None
        for one in token if isinstance(token, list) else [token]:  # config.json may list several ends
            one = one.get("content") if isinstance(one, dict) else one
            found = tokenizer.token_to_id(one) if isinstance(one, str) else one
            if type(found) is int and 0 <= found < LARGEST and tokenizer.id_to_token(found) is not None:
                return found
    return None
