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
    before = state_of(directory)
    try:
        yield
    finally:
        if state_of(directory) != before:
            raise UserError(f"{directory}: the checkpoint changed while it was read; analyse it when it is complete")


def state_of(directory: Path) -> list[tuple[str, int, int, int]]:
    """Name, size, time of change and number of each file of a checkpoint."""
    state = []
    for path in checkpoint_files(directory):
        stat = path.stat()
        state.append((path.name, stat.st_size, stat.st_mtime_ns, stat.st_ino))
    return state
