"""Whether a checkpoint stays the same while it is read; where it comes from: model/source.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nca_interp.base import UserError
from nca_interp.model.source import HUB_NAME as HUB_NAME
from nca_interp.model.source import Source as Source
from nca_interp.model.source import checkpoint_files
from nca_interp.model.source import weights_sha256 as weights_sha256


@contextmanager
def unchanged(directory: Path) -> Iterator[None]:
    """UserError if the checkpoint's files change while the body reads them."""
    before = _state(directory)
    try:
        yield
    finally:
        if _state(directory) != before:
            raise UserError(f"{directory}: the checkpoint changed while it was read; analyse it when it is complete")


def _state(directory: Path) -> list[tuple[str, int, int, int]]:
    state = []
    for path in checkpoint_files(directory):
        stat = path.stat()
        state.append((path.name, stat.st_size, stat.st_mtime_ns, stat.st_ino))
    return state
