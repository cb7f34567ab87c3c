"""Token files: a directory with train.bin, val.bin, meta.json (and tokenizer.json), the only thing training reads."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from nca_interp.base import Frozen, UserError, canonical_json
from nca_interp.data.controls.base import Control
from nca_interp.data.specs import DyckSpec, NcaSpec, SourceSpec, TextSpec
from nca_interp.files import is_new
from nca_interp.store import MANIFEST, commit_dir, damage, read_json, sha256_file, write_json

GENERATOR_VERSION = "2"
"""Changes whenever the same (specification, seed, sizes) would give other tokens."""
TEXT_VERSION = "3"
"""The same of text."""
AGAIN = "delete this token folder, and the command that made it writes it again"
Report = Callable[[str, float], None]


class TokenMeta(Frozen):
    """meta.json: what a token directory holds."""

    spec: dict[str, Any]
    """The specification, as asked."""
    seed: int
    """Seed of the source (text does not depend on it)."""
    vocab_size: int
    """Tokens are 0 .. vocab_size - 1."""
    dtype: Literal["uint16", "uint32"]
    """Storage of a token, little-endian."""
    seq_len: int
    """Inputs of a row; a row has seq_len + 1 tokens."""
    n_train: int
    """Rows of train.bin (text may have fewer than asked)."""
    n_val: int
    """Rows of val.bin."""
    unsupervised_prefix: int
    """The first this many tokens of each row are never targets (NCA: the first whole frame)."""
    mask_rule: Literal["prefix", "file"] = "prefix"
    """file: train_mask.bin and val_mask.bin (uint8, 1 = target) apply as well."""
    tokens_per_frame: int | None = None
    """NCA: tokens of one frame with its delimiters."""
    frame_offset: int | None = None
    """NCA: position of the first `<grid>` in every row."""
    bytes_per_token: float | None = None
    """Text: mean UTF-8 bytes of the targets of the validation rows; loss / ln 2 / this = bits per byte."""
    val_bytes: int | None = None
    """Text: UTF-8 bytes of all targets of the validation rows."""
    end_id: int | None = None
    """Text: id of the token between documents."""
    bos_id: int | None = None
    pad_id: int | None = None
    """Text: ids that the tokenizer names; null: none."""
    sha256: dict[str, str]
    """File name -> SHA-256 of every data file."""
    generator_version: str
    """GENERATOR_VERSION, or of text TEXT_VERSION, of the writer."""
    request: dict[str, Any]
    """What was asked, as far as it decides the tokens; a directory is reused for the same request only."""
    provenance: dict[str, Any]
    """Where the tokens come from: package versions, counts, corpus hash; NCA: acceptance and gzip ratios."""
    description: str
    """One sentence for the report; stand-ins are named as what they are."""


def write_tokens(
    directory: Path, spec: SourceSpec, *, n_train: int, n_val: int, seq_len: int, seed: int,
    threads: int | None = None, progress: Report | None = None,
) -> TokenMeta:  # fmt: skip
    """Build `directory`, complete or not at all: a pure function of (spec, seed, sizes, generator version).

    `n_train` and `n_val` are rows of `seq_len` + 1 tokens; a text corpus may hold fewer. A finished directory of the same
    request is verified and reused. A text that was killed on the way, or whose connection broke (RunFailed), goes on where
    it was: `.work-<name>` beside the directory holds what is done. Raises UserError if the directory belongs to another
    request, if a file in it is damaged or one it was made of has changed, for a band out of reach, and for a corpus that
    is empty, too short or not text.
    """
    for name, value in (("n_train", n_train), ("n_val", n_val), ("seq_len", seq_len)):
        if value < 1:
            raise UserError(f"{name}: {value}; legal: 1 or more")
    if isinstance(spec, Control) and (lack := spec.lacks(seq_len + 1)):
        raise UserError(f"{spec.kind}.{lack}")
    request = {
        "spec": spec.model_dump(mode="json"), "n_train": n_train, "n_val": n_val, "seq_len": seq_len,
        "seed": seed, "generator_version": TEXT_VERSION if isinstance(spec, TextSpec) else GENERATOR_VERSION,
    }  # fmt: skip
    directory = Path(directory)
    report = progress or (lambda label, done: None)
    work = directory.with_name(f".work-{directory.name}")

    def fill(folder: Path) -> dict[str, Any]:
        if isinstance(spec, TextSpec):
            return _fill_text(folder, work, spec, n_train, n_val, seq_len, request, threads, report)
        return _fill_synthetic(folder, spec, {"train": n_train, "val": n_val}, seq_len, seed, threads, report)

    meta = build(directory, request, fill)
    shutil.rmtree(work, ignore_errors=True)
    return meta


def remarks(provenance: dict[str, Any]) -> Iterator[str]:
    """One sentence for each thing that was left out of a text or done to it without being asked."""
    if count := provenance.get("without_text"):
        yield f"{count:,} documents without text (null or empty) were skipped"
    if count := provenance.get("cut_inside_words"):
        yield f"long words were cut at {count:,} places to be tokenised; tokens there may differ from those of the whole word"


def build(directory: Path, request: dict[str, Any], fill: Callable[[Path], dict[str, Any]]) -> TokenMeta:
    """Reuse `directory` if it answers `request`; else `fill(folder)` writes the data files and returns the meta's fields.

    An empty folder is taken for none.
    """
    from nca_interp.data.text.inputs import check

    directory = Path(directory)
    if not is_new(directory):
        meta = TokenFile.open(directory).meta
        differences = [
            f"{key}: the folder has {_short(meta.request.get(key))}, asked for {_short(request.get(key))}"
            for key in sorted(meta.request.keys() | request.keys())
            if meta.request.get(key) != request.get(key)
        ]
        if differences:
            raise UserError(f"{directory}: holds other tokens; nothing was changed\n  " + "\n  ".join(differences))
        check(directory, meta.model_dump(mode="json"))
        return meta

    def write(folder: Path) -> None:
        fields = fill(folder)
        hashes = {p.name: sha256_file(p) for p in sorted(folder.iterdir())}
        known = {k: request[k] for k in ("spec", "seed", "seq_len", "generator_version")}
        meta = TokenMeta(**{**known, "sha256": hashes, "request": request, **fields})
        write_json(folder / "meta.json", meta.model_dump(mode="json"))

    commit_dir(directory, write)
    return TokenFile.open(directory, verify=False).meta


def _short(value: Any) -> str:
    text = canonical_json(value)
    return text if len(text) <= 300 else f"{text[:297]}..."


def _fill_text(
    folder: Path, work: Path, spec: TextSpec, n_train: int, n_val: int, seq_len: int, request: dict[str, Any],
    threads: int | None, report: Report,
) -> dict[str, Any]:  # fmt: skip
    from nca_interp.data.text.packed import write_text

    packed, description = write_text(folder, work, spec, n_train, n_val, seq_len, request, threads, report)
    return {
        "vocab_size": packed.vocab_size, "dtype": packed.dtype, "n_train": packed.n_train, "n_val": packed.n_val,
        "unsupervised_prefix": 0, "bytes_per_token": packed.bytes_per_token, "val_bytes": packed.val_bytes,
        "end_id": packed.end_id, "bos_id": packed.bos_id, "pad_id": packed.pad_id, "provenance": packed.provenance,
        "description": description,
    }  # fmt: skip


def _fill_synthetic(
    folder: Path,
    spec: NcaSpec | DyckSpec | Control,
    sizes: dict[str, int],
    seq_len: int,
    seed: int,
    threads: int | None,
    report: Report,
) -> dict[str, Any]:
    from nca_interp.data.control_rows import control_rows, ideal_nats
    from nca_interp.data.dyck.rows import dyck_rows
    from nca_interp.data.nca.rows import Search, nca_rows, shown
    from nca_interp.data.text.documents import token_dtype

    dtype = token_dtype(spec.vocab_size)
    provenance: dict[str, Any] = {}
    for split, n_rows in sizes.items():
        chunks: Iterator[npt.NDArray[np.uint32]]
        if isinstance(spec, NcaSpec):
            found = Search()
            chunks = nca_rows(spec, seed, split, n_rows, seq_len + 1, threads, found)
        elif isinstance(spec, Control):
            chunks = (c.tokens for c in control_rows(spec, seed, split, n_rows, seq_len + 1, threads))
        else:
            chunks = dyck_rows(spec, seed, split, n_rows, seq_len + 1, threads)
        done = 0
        with open(folder / f"{split}.bin", "wb") as file:
            for chunk in chunks:
                chunk.astype(dtype).tofile(file)
                done += len(chunk)
                report(f"{spec.kind} {split}", done / n_rows)
        if isinstance(spec, Control):
            provenance[split] = {"ideal_nats": ideal_nats(spec, seed, split, n_rows, seq_len + 1)}
        if isinstance(spec, NcaSpec):
            provenance[split] = found.summary(spec)
            if spec.control != "unigram":
                n_rules = int(shown(spec, split, np.arange(n_rows)).rule.max()) + 1
                found.rules()[:n_rules].astype("<i8").tofile(folder / f"{split}_rules.bin")
    frame = spec.tokens_per_frame if isinstance(spec, NcaSpec) else None
    return {
        "vocab_size": spec.vocab_size, "dtype": dtype.name, "n_train": sizes["train"], "n_val": sizes["val"],
        "unsupervised_prefix": frame or 0, "tokens_per_frame": frame, "frame_offset": None if frame is None else 0,
        "provenance": provenance, "description": describe(spec),
    }  # fmt: skip


def describe(spec: NcaSpec | DyckSpec | Control) -> str:
    """One sentence on a synthetic source, for the report."""
    if isinstance(spec, Control):
        return spec.describe()
    if isinstance(spec, DyckSpec):
        ending = "balanced in every row" if spec.ending == "balanced" else "cut at the end of the row"
        return (
            f"{spec.variant} Dyck strings of {spec.k} bracket types, depth at most {spec.max_depth}, "
            f"p_open {spec.p_open:g}, {ending}"
        )
    band = "no complexity filter" if spec.band is None else f"gzip ratio in [{spec.band[0]:g}, {spec.band[1]:g})"
    band += "".join(f", {name} in [{low:g}, {high:g})" for name, (low, high) in spec.where.items())
    rules = "as many training rules as rows need" if spec.n_rules is None else f"{spec.n_rules:,} training rules"
    if spec.n_trajectories is not None:
        rules += f" of {spec.n_trajectories:,} trajectories each"
    elif spec.n_rules is None:
        rules = "a new rule for every row"
    control = {
        "none": "",
        "shuffle_tokens": "; control: tokens shuffled",
        "shuffle_frames": "; control: frames shuffled",
        "unigram": "; control: independent tokens of the same frequencies",
    }
    return (
        f"trajectories of random NCA ({spec.variant} variant), {spec.grid}x{spec.grid} torus, {spec.n_states} states, "
        f"{spec.patch}x{spec.patch} patches, tau {spec.tau:g}, {band}, {rules}{control[spec.control]}"
    )


class RowRules(NamedTuple):
    """What some rows show: candidate numbers of their rules, and numbers of trajectories."""

    candidate: npt.NDArray[np.int64]
    trajectory: npt.NDArray[np.int64]


class TokenFile:
    """An open token directory: `meta`, and read-only memory maps `train`, `val` of shape [rows, seq_len + 1]."""

    def __init__(self, directory: Path, meta: TokenMeta) -> None:
        self.directory, self.meta = directory, meta
        self.train = self._map("train.bin", meta.n_train, meta.dtype)
        self.val = self._map("val.bin", meta.n_val, meta.dtype)
        masked = meta.mask_rule == "file"
        self.train_mask = self._map("train_mask.bin", meta.n_train, "uint8") if masked else None
        """uint8 [rows, seq_len + 1], 1 where the token is a target; None unless meta.mask_rule is "file"."""
        self.val_mask = self._map("val_mask.bin", meta.n_val, "uint8") if masked else None
        """Like train_mask."""

    def _map(self, name: str, rows: int, dtype: str) -> npt.NDArray[Any]:
        stored = np.dtype(dtype).newbyteorder("<")
        return np.memmap(self.directory / name, dtype=stored, mode="r", shape=(rows, self.meta.seq_len + 1))

    def row_rules(self, split: str, rows: npt.ArrayLike) -> RowRules | None:
        """Which rule and trajectory each row of an NCA split shows; None where rows show none (control unigram, no NCA).

        `nca_rows.trajectory` makes the row again.
        """
        from nca_interp.data.nca.rows import shown

        path = self.directory / f"{split}_rules.bin"
        if not path.is_file():
            return None
        rule, trajectory = shown(NcaSpec.model_validate(self.meta.spec), split, np.asarray(rows, dtype=np.int64))
        return RowRules(np.fromfile(path, "<i8").astype(np.int64)[rule], trajectory)

    @classmethod
    def open(cls, directory: Path, verify: bool = True) -> TokenFile:
        """Open a directory; with `verify`, compare every file with its SHA-256. UserError names a damaged file."""
        directory = Path(directory)
        meta = read_meta(directory)
        for name, expected in meta.sha256.items():
            file = directory / name
            size = _bin_size(meta, name)
            if not file.is_file() or (size is not None and file.stat().st_size != size):
                raise UserError(f"{file}: missing or of wrong size; {AGAIN}")
            if verify and sha256_file(file) != expected:
                raise UserError(f"{file}: damaged (its SHA-256 differs from meta.json); {AGAIN}")
        return cls(directory, meta)


def read_meta(directory: Path) -> TokenMeta:
    """meta.json of a token directory. UserError where it, or the size of a file beside it, is not as it was written."""
    path = directory / "meta.json"
    if not path.is_file():
        raise UserError(f"{directory}: not a token directory (no meta.json in it)")
    try:
        meta = TokenMeta.model_validate(read_json(path))
    except ValueError as error:
        raise UserError(
            f"{path}: not readable as meta.json of tokens ({' '.join(str(error).split())}); {AGAIN}"
        ) from None
    if (directory / MANIFEST).is_file() and (problem := damage(directory, quick=True)):
        raise UserError(f"{directory}: damaged tokens, {problem}; {AGAIN}")
    return meta


def _bin_size(meta: TokenMeta, name: str) -> int | None:
    split, _, rest = name.removesuffix(".bin").partition("_")
    if not name.endswith(".bin") or rest == "rules":
        return None
    item = 1 if rest == "mask" else np.dtype(meta.dtype).itemsize
    return (meta.n_train if split == "train" else meta.n_val) * (meta.seq_len + 1) * item
