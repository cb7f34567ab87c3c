"""The swap of a model that this project's trainer did not leave in the study: a checkpoint in the place of a parent run."""

from __future__ import annotations

from typing import Any

from nca_interp.base import UserError
from nca_interp.data.text.tokenizer import has_tokenizer, open_tokenizer
from nca_interp.model.checkpoint import read_provenance
from nca_interp.model.parent import check_causal, check_trains, naming, open_parent
from nca_interp.model.source import Source
from nca_interp.model.swap import swap
from nca_interp.store import StudyDir
from nca_interp.train.grafted import grafted_heads
from nca_interp.train.run import RunConfig


def from_checkpoint(
    study: StudyDir, config: RunConfig, vocab_size: int, donor: Any
) -> tuple[Any, Any, list[dict[str, Any]]]:
    """The model before the first step, its parent, and the log of the swap. UserError where it cannot be trained, and where a policy
    keeps rows whose tokens are others, or unknown."""
    assert config.checkpoint is not None
    if "keep" in (config.swap.embed, config.swap.unembed_draw):
        _same_tokens(study, config)
    with naming(config.checkpoint):
        parent = open_parent(config.checkpoint)
        check_causal(parent)
        rows = read_provenance(Source.find(config.checkpoint).directory).get("vocab_size")
        child, log = swap(
            parent, config.model, vocab_size, config.seeds.init, config.keep, config.reinit_to, config.swap, rows,
            config.graft, grafted_heads(study, config).heads, donor,
        )  # fmt: skip
        check_trains(child, vocab_size)
    child.zero_grad(set_to_none=True)
    return child, parent, log


def _same_tokens(study: StudyDir, config: RunConfig) -> None:
    """UserError unless the tokens of a run are those of the checkpoint that it starts from."""
    assert config.checkpoint is not None
    before, after = Source.find(config.checkpoint).directory, study.path / config.tokens / "tokenizer.json"
    if not has_tokenizer(before):
        raise UserError(
            f"{config.id}: swap.embed: keep: {config.checkpoint} has no tokenizer, so it is not known which tokens its rows are of; "
            "legal: normal, match_rms, match_gaussian, resample (which need none)"
        )
    ours, theirs = (open_tokenizer(place).tokenizer.get_vocab() for place in (after, before))
    if ours != theirs:
        raise UserError(
            f"{config.id}: swap.embed: keep: the tokens of {after.parent.name} are not those of {config.checkpoint}; "
            "legal: normal, match_rms, match_gaussian, resample"
        )
