"""Whether a checkpoint stays the same while it is read; where it comes from: model/source.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nca_interp.base import UserError
from nca_interp.model.source import HUB_NAME as HUB_NAME
from nca_interp.model.source import Source as Source
from nca_interp.model.source import checkpoint_files, file_state
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


def state_of(directory: Path) -> list[tuple[Any, ...]]:
    """Name and state of each file of a checkpoint."""
    return [(path.name, *file_state(path)) for path in checkpoint_files(directory)]
