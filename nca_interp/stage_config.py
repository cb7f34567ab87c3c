"""One training stage: budget, optimiser, schedule, what is written when."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from nca_interp.base import Frozen

Checkpoints = Literal["log", "even", "ends"]
Decay = Annotated[float, Field(ge=0, lt=1)]


class StageConfig(Frozen):
    """One training stage: budget, optimiser (AdamW), schedule, what is written when."""

    steps: int = Field(ge=1, le=100_000_000)
    """Optimiser steps."""
    batch_size: int = Field(ge=1, le=1_048_576)
    """Sequences a step, over all processes."""
    micro_batch: Annotated[int, Field(ge=1)] | Literal["auto"] | None = None
    """Sequences a forward pass on one process (gradient accumulation); null: all at once; auto: as many as memory holds. Changes
    memory, not the result."""
    gradient_checkpointing: bool = False
    """Compute the activations inside each block again in the backward pass: less memory, about a third more time, the same result."""
    lr: float = Field(gt=0, le=10)
    """Peak learning rate."""
    warmup: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps with linearly rising learning rate."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Shape after warm-up."""
    min_lr_ratio: float = Field(default=0.1, ge=0, le=1)
    """Final learning rate / peak (cosine only)."""
    horizon: int | None = Field(default=None, ge=1)
    """Steps the schedule is computed for (null: `steps`); longer than `steps` stops in mid-schedule, as the released code does."""
    weight_decay: float = Field(default=0.01, ge=0, le=1)
    """AdamW decay of matrices; norms only with `decay_norms`."""
    decay_norms: bool = False
    """Whether norm gains are decayed as well (the published code decays every parameter)."""
    betas: tuple[Decay, Decay] = (0.9, 0.98)
    """AdamW moments' decay, 0 to less than 1."""
    eps: float = Field(default=1e-8, gt=0)
    """AdamW epsilon."""
    clip: float | None = Field(default=1.0, gt=0)
    """Global gradient norm is clipped to this; null: not at all."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """A loss or gradient that is not finite ends the run as diverged, or its step is skipped (the weights stay as they are)."""
    spike_threshold: float | None = Field(default=1.0, gt=0)
    """A loss this many nats a token above the median of the 32 steps before is counted as a spike; null: none is."""
    on_spike: Literal["count", "skip"] = "count"
    """Whether the step of a spike is also skipped."""
    vocab_rows: int | None = Field(default=None, ge=1)
    """Rows of embedding and unembedding where the vocabulary has fewer (the published code: 64,000); null: exact."""
    first_frame_targets: bool = False
    """Whether the first frame of an NCA row is predicted too, though its rule cannot be known yet."""
    no_previous_token: bool = False
    """Whether no head attends to the token before the query, in training and validation, so that no induction head can form as it
    does elsewhere (docs/mediation.md). Checkpoints hold the weights alone, which any other program runs without this mask."""
    eval_every: int = Field(default=100, ge=1)
    """Steps between validations; step 0 and the last step are always validated."""
    checkpoints: Checkpoints = "log"
    """log: steps 0, 1, 2, 4, ... and every `checkpoint_every`; even: without the powers of two; ends: the first and the last."""
    checkpoint_every: int = Field(default=1000, ge=1)
    """Steps between checkpoints once the powers of two are further apart than this; also between resume states."""

    state_steps: tuple[int, ...] = ()
    """Steps whose whole state (weights and AdamW moments, 12 bytes a parameter) is kept; else only the newest two are."""

    def saves_state(self, step: int) -> bool:
        """Whether the run can be resumed from `step`: every `checkpoint_every` and the asked steps; the last is the end."""
        return step in self.state_steps or (step < self.steps and step % self.checkpoint_every == 0)

    def checkpoint_steps(self) -> list[int]:
        """Steps after which a checkpoint is written, ascending, 0 (initial weights) and `steps` included."""
        if self.checkpoints == "ends":
            return [0, self.steps]
        powers, step = ({0, 1}, 2) if self.checkpoints == "log" else ({0}, self.steps)
        while step < min(self.checkpoint_every, self.steps):
            powers.add(step)
            step *= 2
        return sorted(powers | set(range(self.checkpoint_every, self.steps, self.checkpoint_every)) | {self.steps})

    @property
    def rows_at_once(self) -> int:
        """Sequences a forward pass as far as the configuration says; with "auto" at most this many."""
        return self.micro_batch if isinstance(self.micro_batch, int) else self.batch_size

    @field_validator("warmup", mode="before")
    @classmethod
    def _share(cls, value: Any) -> Any:
        if isinstance(value, int | float) and value >= 1:
            raise ValueError(f"{value} is more warm-up than steps; it is a share of the steps, 0 to less than 1")
        return value

    @model_validator(mode="after")
    def _splits(self) -> StageConfig:
        if self.batch_size % self.rows_at_once:
            raise ValueError(f"micro_batch: {self.micro_batch} does not divide batch_size {self.batch_size}")
        if beyond := [step for step in self.state_steps if not 1 <= step <= self.steps]:
            raise ValueError(f"state_steps: {beyond[0]}; legal: 1 to {self.steps} (steps)")
        if self.horizon is not None and self.horizon < self.steps:
            raise ValueError(f"horizon: {self.horizon} is shorter than steps {self.steps}")
        return self
