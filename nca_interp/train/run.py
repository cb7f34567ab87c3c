"""The configuration of one run: one training stage of one regime, domain and seed."""

from __future__ import annotations

from typing import Any, Literal

from nca_interp.base import Frozen, UserError
from nca_interp.config import ModelConfig, Module, Seeds, Stage, StageConfig
from nca_interp.graft import NOTHING, Graft
from nca_interp.overrides import parse
from nca_interp.store import RunDir
from nca_interp.swap_policy import TODAY, SwapPolicy


class RunConfig(Frozen):
    """Everything that determines a run; saved as run.json before step 0 and compared on every restart."""

    id: str
    """Folder name, e.g. `pt.nca.web.s0`."""
    stage: Stage
    """ppt, pt or ft."""
    regime: str
    """Name of the regime."""
    label: str
    """Its label in reports."""
    role: str
    """Comparison it belongs to."""
    domain: str | None
    """Name of the domain; null for pre-pre-training."""
    seed: int
    """Index of the seeds in the study."""
    seeds: Seeds
    """The three seeds."""
    model: ModelConfig
    """The network."""
    config: StageConfig
    """Budget and optimiser."""
    tokens: str
    """Token directory, relative to the study."""
    source: dict[str, Any]
    """What the tokens were made from."""
    parent: str | None
    """Run whose last checkpoint this one starts from; null: initial weights."""
    keep: tuple[Module, ...]
    """Module types carried over from the parent at the swap."""
    reinit_to: Literal["initial", "fresh"]
    """Where the others go."""
    swap: SwapPolicy = TODAY
    """How embeddings are drawn and in which state the body enters pre-training, already applied to `model`; of other stages empty."""
    graft: Graft = NOTHING
    """Parts, layers or heads that are re-initialised or alone carried over at the swap; a file of heads is that of the parent."""
    donor: str | None = None
    """Run whose last checkpoint stands where nothing is carried over; null: none."""
    precision: Literal["fp32", "bf16"]
    """Resolved precision of matrix products."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether blocks go through torch.compile, as asked; what was done stands in the provenance of each checkpoint."""

    @property
    def embedding_stream(self) -> str:
        """Random stream of the freshly drawn embeddings."""
        return "ppt" if self.stage == "ppt" else "pt"


def read_run_config(run: RunDir) -> RunConfig:
    """run.json of a run; UserError names the file where it is damaged, or another run's."""
    try:
        config = parse(RunConfig, run.read(run.config))
    except UserError as error:
        raise UserError(str(error) if str(run.config) in str(error) else f"{run.config}: {error}") from None
    if config.id != run.id:
        raise UserError(f"{run.config}: it is the configuration of {config.id}")
    return config
