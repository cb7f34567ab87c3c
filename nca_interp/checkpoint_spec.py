"""A parent that was trained elsewhere: which checkpoint, and what of its architecture a study has to know."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from nca_interp.base import Frozen, canonical_json


class Architecture(Frozen):
    """A network that is not the project's own Llama, as transformers builds it (docs/transfer_checkpoint.md)."""

    config: dict[str, Any]
    """Fields of its Hugging Face configuration, model_type included; vocabulary, tied embeddings, special tokens and dropout
    excepted, which the study decides (dropout: none)."""
    n_params_body: int = Field(ge=1)
    """Parameters outside embedding and unembedding of tokens; learned positions count here."""

    def __hash__(self) -> int:
        return hash(canonical_json(self))  # `config` is a mapping, which the generated hash refuses

    @property
    def model_type(self) -> str:
        """Family, as transformers calls it."""
        return str(self.config["model_type"])

    @model_validator(mode="after")
    def _named(self) -> Architecture:
        if not isinstance(self.config.get("model_type"), str):
            raise ValueError("config: model_type is missing; legal: the name of a family that transformers knows")
        return self


class CheckpointSpec(Frozen):
    """A trained network in the place of a pre-pre-training stage: Hugging Face directories with safetensors, or names on the hub."""

    kind: Literal["checkpoint"] = "checkpoint"
    paths: tuple[str, ...] = Field(min_length=1)
    """Directory or org/name[@revision]. One: every seed starts from it. Several: seed i starts from the i-th, as many as there
    are seeds."""

    def of(self, seed: int) -> str:
        """The checkpoint that a seed (by index) starts from."""
        return self.paths[seed if len(self.paths) > 1 else 0]

    @model_validator(mode="after")
    def _differ(self) -> CheckpointSpec:
        twice = [path for path in self.paths if self.paths.count(path) > 1]
        if twice:
            raise ValueError(f"paths: {twice[0]!r} is named twice; as several seeds it would be one replication")
        return self
