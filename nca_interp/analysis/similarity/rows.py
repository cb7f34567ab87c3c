"""The rows that networks are compared on: a run's own validation rows, or natural text in a checkpoint's tokens."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from nca_interp.analysis.collection.collection import Collection
from nca_interp.analysis.collection.run import Run
from nca_interp.base import UserError
from nca_interp.data.tokens import TokenFile


class Rows:
    """Rows of every run of a collection, each read once."""

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self._elsewhere = cache(self._read)

    def rows(self, run: Run) -> np.ndarray:
        """Tokens [sequence, position]; UserError where the run has no text."""
        if run.trained is not None:
            return np.asarray(TokenFile.open(self._tokens(run), verify=False).val[:, :-1])
        return self._elsewhere(run.last)

    def known(self, run: Run) -> bool:
        """Whether there are rows: of a checkpoint from elsewhere only with a tokenizer or tokens."""
        if run.trained is not None:
            return True
        try:
            return len(self._elsewhere(run.last)) > 0
        except UserError:
            return False

    def sha256(self, run: Run) -> Any:
        """Identity of the rows: positions of two runs correspond where it is the same."""
        if run.trained is not None:
            return run.trained.meta.sha256
        rows = self._elsewhere(run.last)
        return hashlib.sha256(repr(rows.shape).encode() + rows.astype("<i8").tobytes()).hexdigest()

    def _tokens(self, run: Run) -> Path:
        assert run.config is not None
        return self.collection.folder / run.config.tokens

    def _read(self, checkpoint: Path) -> np.ndarray:
        from nca_interp.analysis.stimuli.subject import describe
        from nca_interp.model.checkpoint import load_config, read_provenance

        settings = self.collection.settings
        tokens, tokenizer = (Path(p) if p else None for p in (settings.tokens, settings.tokenizer))
        subject = describe(checkpoint, load_config(checkpoint), read_provenance(checkpoint), tokens, tokenizer)
        if subject.rows is None:
            raise UserError(f"{checkpoint}: no text to compare on; give --tokens or --tokenizer")
        return np.asarray(subject.rows[:, :-1])
