"""Everything that the training loop needs and changes, in one place."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from accelerate import Accelerator

from nca_interp.data.tokens import TokenFile
from nca_interp.model.roles import kinds_of
from nca_interp.store import RunDir, StudyDir
from nca_interp.train.batches import Loader
from nca_interp.train.health import Health
from nca_interp.train.parallel import Execution
from nca_interp.train.run import RunConfig


@dataclass
class Loop:
    """Everything the loop needs and changes."""

    study: StudyDir
    run: RunDir
    config: RunConfig
    accelerator: Accelerator
    execution: Execution
    tokens: TokenFile
    loader: Loader
    model: Any
    """The model as it is called: inside DDP, or sharded."""
    raw_model: Any
    """The Hugging Face model inside."""
    optimizer: torch.optim.Optimizer
    health: Health
    trackers: list[Any]
    step: int = 0
    val: dict[str, float | None] = field(default_factory=dict)

    @cached_property
    def kinds(self) -> dict[str, str]:
        """By parameter: embed, attn, mlp or norm."""
        return kinds_of(self.raw_model)

    @property
    def main(self) -> bool:
        """Whether this process writes the files."""
        return self.accelerator.is_main_process
