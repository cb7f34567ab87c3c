"""Sizes of vocabularies as far as they are known before tokens are written: estimates of costs rest on them, nothing else."""

from __future__ import annotations

from typing import Any

from nca_interp.data.specs import CONTROLS
from nca_interp.data.text.named_tokenizer import ASSUMED, known_vocabulary
from nca_interp.engine.graph import Plan, TokensJob
from nca_interp.train.run import RunConfig


def vocab(run: RunConfig) -> int:
    """Rows of the run's embedding, as far as known before the token file exists (a trained BPE may end up smaller)."""
    return max(spec_vocab(run.source), run.config.vocab_rows or 0)


def spec_vocab(source: dict[str, Any]) -> int:
    """Tokens of a source's vocabulary, ASSUMED for an hf tokenizer that is not on this machine; of question-answer pairs,
    which use their domain's, 0."""
    if source.get("kind") == "nca":
        return source["n_states"] ** (source["patch"] ** 2) + 2
    if source.get("kind") == "dyck":
        return 2 * source["k"]
    if source.get("kind") in CONTROLS:
        return CONTROLS[source["kind"]].model_validate(source).vocab_size
    tokenizer = source.get("tokenizer", {"kind": "bpe", "vocab_size": 0})
    return (known_vocabulary(tokenizer["name"]) or ASSUMED) if tokenizer["kind"] == "hf" else tokenizer["vocab_size"]


def unknown_tokenizers(plan: Plan) -> list[str]:
    """Names of hf tokenizers of which a plan's costs do not know the vocabulary."""
    sources = [job.payload.spec for job in plan.jobs if isinstance(job.payload, TokensJob)]
    named = [source["tokenizer"]["name"] for source in sources if source.get("tokenizer", {}).get("kind") == "hf"]
    return [name for name in dict.fromkeys(named) if known_vocabulary(name) is None]
