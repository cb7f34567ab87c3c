"""Where a checkpoint comes from: a directory, or a name on the Hugging Face hub; and which weights it holds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from nca_interp.base import UserError, digest
from nca_interp.data.text.tokenizer import FILES as TOKENIZER_FILES
from nca_interp.model.folder import ADAPTER
from nca_interp.store import MANIFEST, checkpoint_hash, sha256_file

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w.-]+)?")
"""org/name, or org/name@revision."""
FILES = ("config.json", "*.safetensors", "*.safetensors.index.json")


@dataclass(frozen=True)
class Source:
    """A checkpoint directory on this machine."""

    directory: Path

    @classmethod
    def find(cls, checkpoint: Path | str) -> Source:
        """The directory of that name, or the hub's files of that name (downloaded once into its cache)."""
        if Path(checkpoint).is_dir() or not HUB_NAME.fullmatch(str(checkpoint)):
            return cls(Path(checkpoint))
        return cls(_download(str(checkpoint)))

    def sha256(self) -> str:
        """Identity of the weights: that of our own manifest, else of the configuration and weight files."""
        if (self.directory / MANIFEST).is_file():
            return checkpoint_hash(self.directory)
        return digest(self.hashes())

    def hashes(self) -> dict[str, str]:
        """SHA-256 of the configuration and weight files, by name; a file is read once a process, until it changes."""
        return {path.name: _hash(path.resolve(), *file_state(path)) for path in checkpoint_files(self.directory)}


def file_state(path: Path) -> tuple[int, int, int, int]:
    """Size, times of change of content and of record, and number of a file: what tells it from one that was written in its place."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


@lru_cache(maxsize=256)
def _hash(path: Path, *state: int) -> str:
    return sha256_file(path)


def weights_sha256(directory: Path) -> str:
    """Identity of the weights in a checkpoint directory."""
    return Source(directory).sha256()


def checkpoint_files(directory: Path) -> list[Path]:
    """Its configuration and weight files."""
    return sorted(path for pattern in FILES for path in directory.glob(pattern))


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    try:
        return Path(
            snapshot_download(repository, revision=revision or None, allow_patterns=[*FILES, *TOKENIZER_FILES, ADAPTER])
        )
    except Exception as error:  # connection errors of several libraries; what the hub answers for unknown names
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise UserError(
            f"{name}: no such checkpoint directory, and the Hugging Face hub does not give it ({reason})"
        ) from None
