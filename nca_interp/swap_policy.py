"""What happens to a network between its synthetic stage and language: how embeddings are drawn, what becomes of the body.

arXiv 2603.10055 draws embedding and unembedding anew and keeps the rest as it is; at which scale they are drawn it does not
say (its released code: N(0, 1)). docs/swap.md says what each choice means and which one is the default.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from nca_interp.base import Frozen
from nca_interp.data.specs import TextSpec

Draw = Literal["normal", "match_rms", "match_gaussian", "resample", "keep"]
BodyScale = Literal["as_is", "shrink_to_initial", "reset_norms"]
Std = Annotated[float, Field(gt=0, le=100)]


class SwapPolicy(Frozen):
    """How the embeddings of pre-training are drawn, and how the body of the parent run enters it. Without any field: as the
    model says, the body as it is. A regime trained from scratch takes `normal` draws and `tied` only."""

    embed: Draw = "normal"
    """Rows of the embedding. normal: N(0, embed_std^2); match_rms: normal with the root mean square of the parent's rows;
    match_gaussian: normal with mean and covariance of the parent's rows; resample: rows of the parent, drawn with
    replacement; keep: the parent's own, where the vocabularies agree."""
    embed_std: Std | None = None
    """Standard deviation of a normal draw (the released code: 1.0); null: `model.embed_std`."""
    unembed: Draw | None = None
    """Rows of an untied unembedding, from the parent's unembedding likewise; null: as `embed`."""
    unembed_std: Std | None = None
    """Standard deviation of a normal draw of the unembedding; null: `model.unembed_std`, and where that is null too, that of
    the embedding."""
    tied: bool | None = None
    """Whether the unembedding shares the embedding's weights from here on, however it was before; null: `model.tied`."""
    freeze_body: int = Field(default=0, ge=0, le=100_000_000)
    """First steps of pre-training in which only embedding and unembedding are trained: no update, no decay, no moments of the
    rest, whose step count in AdamW begins afterwards."""
    body_scale: BodyScale = "as_is"
    """What becomes of the carried body's scale. shrink_to_initial: each tensor is multiplied to the norm of its initial value;
    reset_norms: RMSNorm gains are set back to 1."""

    @model_validator(mode="after")
    def _agrees(self) -> SwapPolicy:
        if self.embed_std is not None and self.embed != "normal":
            raise ValueError(f"embed_std: {self.embed_std} with embed {self.embed!r}; legal: only with normal")
        if self.unembed_std is not None and self.unembed_draw != "normal":
            raise ValueError(
                f"unembed_std: {self.unembed_std} with unembed {self.unembed_draw!r}; legal: only with normal"
            )
        if self.tied and (self.unembed is not None or self.unembed_std is not None):
            raise ValueError("unembed: a tied unembedding is the embedding; legal: null for unembed and unembed_std")
        return self

    @property
    def unembed_draw(self) -> Draw:
        """How the rows of an untied unembedding are drawn."""
        return self.unembed or self.embed

    def of_parent(self) -> Iterator[tuple[str, Any, str]]:
        """(field, value, what is legal without a parent) of everything that needs one."""
        for name, draw in (("embed", self.embed), ("unembed", self.unembed)):
            if draw not in (None, "normal"):
                yield name, draw, "normal"
        if self.freeze_body:
            yield "freeze_body", self.freeze_body, "0"
        if self.body_scale != "as_is":
            yield "body_scale", self.body_scale, "as_is"

    def applied(self, model: Any) -> Any:
        """The configuration of the network (a ModelConfig) from the swap on."""
        fields = {"tied": self.tied, "embed_std": self.embed_std, "unembed_std": self.unembed_std}
        return model.model_copy(update={name: value for name, value in fields.items() if value is not None})

    def drawn(self, model: Any) -> tuple[Any, ...] | None:
        """By what an arm from scratch has the same embeddings: their scales and whether they are tied; None for draws that no
        scratch arm has."""
        if self.embed != "normal" or self.unembed_draw != "normal":
            return None
        own = self.applied(model)
        return own.embed_std, None if own.tied else own.unembed_std or own.embed_std, own.tied

    def words(self, model: Any) -> str:
        """The policy for tables, for a network (a ModelConfig) that it has been applied to."""
        stds = (model.embed_std, model.unembed_std or model.embed_std)
        embed, unembed = (
            f"N(0, {std:g}\u00b2)" if draw == "normal" else draw.replace("_", " ")
            for draw, std in zip((self.embed, self.unembed_draw), stds, strict=True)
        )
        parts = [f"embedding {embed}", "tied" if model.tied else f"unembedding {unembed}"]
        if self.body_scale != "as_is":
            parts.append(
                {"shrink_to_initial": "body shrunk to its initial norms", "reset_norms": "norm gains reset"}[
                    self.body_scale
                ]
            )
        if self.freeze_body:
            parts.append(f"body frozen for {self.freeze_body} steps")
        return ", ".join(parts)


TODAY = SwapPolicy()
"""As the model says; what a regime without a policy does."""


class Place(NamedTuple):
    """A domain in which a regime is trained, as far as a policy depends on it."""

    name: str
    source: TextSpec
    steps: int
    """Of pre-training."""
    same_rows: bool
    """Whether both stages ask for the same number of rows (`vocab_rows`)."""


def check_policy(where: str, policy: SwapPolicy, source: Any, tied: bool, places: list[Place]) -> None:
    """ValueError where a regime of this `source` (None: scratch) cannot do what its policy says in one of its domains."""
    if source is None:
        for name, value, legal in policy.of_parent():
            raise ValueError(
                f"{where}.{name}: {value!r} needs a parent, and this regime is trained from scratch (source null); "
                f"legal: {legal}"
            )
    if tied and policy.tied is None and (policy.unembed is not None or policy.unembed_std is not None):
        raise ValueError(
            f"{where}.unembed: model.tied is true, and a tied unembedding is the embedding; legal: null, or swap.tied=false"
        )
    keeps = "keep" in (policy.embed, policy.unembed_draw)
    for place in places:
        if policy.freeze_body > place.steps:
            raise ValueError(
                f"{where}.freeze_body: {policy.freeze_body} steps are more than pre-training on {place.name} has; "
                f"legal: 0 to {place.steps}"
            )
        if keeps and (problem := _other_vocabulary(source, place)):
            raise ValueError(
                f"{where}.embed: rows cannot be kept on {place.name}, {problem}; legal: normal, match_rms, match_gaussian, resample"
            )


def _other_vocabulary(source: Any, place: Place) -> str:
    """Why token ids do not mean the same before and after the swap; empty where they may."""
    if source.kind == "checkpoint":  # whose own tokenizer is compared where the rows are (train/setup.py)
        return "" if place.source.tokenizer.kind == "hf" else "whose tokenizer is not that of a checkpoint (kind hf)"
    if not isinstance(source, TextSpec):
        return f"whose vocabulary is not that of the {source.kind} tokens"
    if source.tokenizer != place.source.tokenizer:
        return "whose tokenizer is another one"
    if source.tokenizer.kind == "bpe" and source != place.source:
        return "whose BPE is trained on another corpus (a named tokenizer is the same everywhere: kind hf)"
    return "" if place.same_rows else "where pt.vocab_rows and ppt.vocab_rows differ"
