"""The tokens of every head at the last checkpoint of each run: measured once and kept, as a table and in words."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import pandas as pd

from nca_interp.analysis.cache import code_hash, keep, kept
from nca_interp.analysis.collection.collection import Collection
from nca_interp.analysis.collection.run import CHECKPOINT, Run
from nca_interp.analysis.head_tokens.circuits import FIRST, Options, choose_sources, head_tokens
from nca_interp.analysis.probing.engine import engine_hash
from nca_interp.analysis.probing.opened import open_last
from nca_interp.analysis.stimuli.base import NotApplicable, Subject
from nca_interp.analysis.stimuli.size import OVERHEAD, THROUGHPUT
from nca_interp.analysis.stimuli.source import unchanged, weights_sha256
from nca_interp.analysis.stimuli.subject import describe
from nca_interp.analysis.stimuli.vocabulary import token_texts
from nca_interp.base import UserError
from nca_interp.measurement import Asked
from nca_interp.model.checkpoint import load_config, read_provenance
from nca_interp.readers import read_object

CODE = ("causes/folded.py", "head_tokens/circuits.py", "head_tokens/study.py")
"""Files of this package that decide a number, beside those of the probe engine."""
INTEGERS = ("layer", "head", "place", "source", "target")
COLUMNS = ["layer", "head", "circuit", "place", "source", "source_text", "target", "target_text", "value"]
WORDS = ["run", "layer", "head", "group", "fact", "text"]
OV, QK = "What it writes (OV circuit)", "What it attends to (QK circuit)"
FACTS = {
    "promotes": (OV, "raises, whatever it reads"), "suppresses": (OV, "lowers, whatever it reads"),
    "pair": (OV, "on reading a token raises, beyond that"), "copies": (OV, "copies"), "reads": (OV, "writes most on reading"),
    "attends": (QK, "keys that it prefers, whatever the query"), "match": (QK, "queries and the keys that they prefer, beyond that"),
}  # fmt: skip
"""Circuit -> heading and what is said."""


def measure(run: Run, asked: Asked) -> list[str]:
    """The tokens of each head of the last checkpoint of a run, unless that is up to date; the reason where there are none."""
    settings, options = asked.collection.settings, asked.options
    path = run.kept("head-tokens", run.steps[-1])
    made_from = _weights(run) | {"arguments": options.model_dump(mode="json")} | settings.decide()
    if kept(path, made_from, numbers=["value"], integers=INTEGERS) is not None:
        return []
    asked.say("tokens of heads", None)
    tokens, tokenizer = (Path(p) if p else None for p in (settings.tokens, settings.tokenizer))
    subject = describe(run.last, load_config(run.last), read_provenance(run.last), tokens, tokenizer)
    rows: list[dict[str, Any]] = []
    told: dict[Any, Any] = {"sources": "", "not_measured": ""}
    try:
        with unchanged(run.last):
            model: Any = open_last(run.last)
        n_tokens = min(subject.vocab_size, model.get_input_embeddings().weight.shape[0])
        sources = choose_sources(subject.rows, n_tokens, options.sources)
        where = f"the most frequent of {subject.rows_from}" if subject.rows is not None else "evenly spaced token ids"
        told["sources"] = f"{len(sources)} tokens, {where}"
        texts = _texts(subject)
        for layer, head, found in head_tokens(model, sources, options, partial(asked.say, "tokens of heads")):
            for one in found:
                named = (layer, head, *one[:3], texts(one.source), one.target, texts(one.target), one.value)
                rows.append(dict(zip(COLUMNS, named, strict=True)))
    except NotApplicable as reason:
        rows, told["not_measured"] = [], str(reason)
    frame = pd.DataFrame(rows, columns=COLUMNS)
    frame[list(INTEGERS)] = frame[list(INTEGERS)].astype("Int64")
    config = load_config(run.last).get_text_config()
    shape = [int(getattr(config, name, 0) or 0) for name in ("num_hidden_layers", "num_attention_heads")]
    frame.attrs = {**told, "first": FIRST, "shape": shape, "n_tokens": int(config.vocab_size)}
    keep(path, frame, made_from)
    return []


def cost(run: Run, options: Options) -> float:
    """Seconds that it takes, about: of every head W_OV times the unembedding, and what each source writes, several times over."""
    try:
        text = load_config(run.last).get_text_config() if run.steps else None
    except UserError:
        text = None
    if text is None:
        return OVERHEAD
    layers, heads = (int(getattr(text, name, None) or 1) for name in ("num_hidden_layers", "num_attention_heads"))
    width, vocab = int(getattr(text, "hidden_size", None) or 64), int(text.vocab_size)
    return (
        OVERHEAD
        + layers * heads * vocab * (2 * width / heads * (width + options.sources) + 750 * options.sources) / THROUGHPUT
    )


def _texts(subject: Subject) -> Any:
    """Text of a token in quotes, as Python writes it; its number where no tokenizer says."""
    known = token_texts(subject.tokenizer, subject.vocab_size) if subject.tokenizer is not None else ()

    def text(token: int | None) -> str:
        if token is None:
            return ""
        return repr(known[token]) if token < len(known) and known[token] else f"#{token}"

    return text


def _weights(run: Run) -> dict[str, Any]:
    return {"checkpoint": weights_sha256(run.last), "engine": engine_hash(), "code": code_hash(CODE)}


def _kept(run: Run) -> pd.DataFrame | None:
    if not run.steps or not (path := run.kept("head-tokens", run.steps[-1])).is_file():
        return None
    said = read_object(path.with_suffix(".json"), made_from=dict)["made_from"]
    if any(said.get(name) != value for name, value in _weights(run).items()):
        return None
    return kept(path, said, numbers=["value"], integers=INTEGERS)


def tables(collection: Collection, tables: dict[str, pd.DataFrame], asked: Asked) -> dict[str, pd.DataFrame]:
    """`head_tokens`, and the same in words for the pages of heads; none where nothing was measured."""
    found, words = [], []
    for run in collection.runs:
        frame = _kept(run)
        if frame is None:
            continue
        said: Any = frame.attrs
        frame.attrs = {}
        found.append(frame.assign(**run.at(run.steps[-1]))[[*CHECKPOINT, *COLUMNS]])
        words += [{"run": run.id, **row} for row in _words(frame, said)]
    if not found:
        return {}
    return {"head_tokens": pd.concat(found, ignore_index=True), "head_words": pd.DataFrame(words, columns=WORDS)}


def _words(frame: pd.DataFrame, said: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if said["not_measured"]:
        layers, heads = said["shape"]
        for layer in range(layers):
            for head in range(heads):
                yield {"layer": layer, "head": head, "group": OV, "fact": "not read off the weights", "text": said["not_measured"]}  # fmt: skip
    for place, rows in frame.groupby(["layer", "head"], sort=True):
        where = dict(zip(("layer", "head"), cast(Any, place), strict=True))
        for circuit, (group, fact) in FACTS.items():
            part = rows[rows.circuit == circuit].sort_values("place")
            if len(part):
                yield {**where, "group": group, "fact": fact, "text": _told(circuit, part, said)}
        yield {**where, "group": OV, "fact": "tokens that it is tried on", "text": said["sources"]}


def _told(circuit: str, rows: pd.DataFrame, said: dict[str, Any]) -> str:
    if circuit == "copies":
        share = float(rows.value.iloc[0])
        return f"{share:.0%} of the tokens that it is tried on: each among the {said['first']} of {said['n_tokens']:,} that it raises most"
    if circuit in ("pair", "match"):
        pairs = rows.groupby("source_text", sort=False).target_text.agg(", ".join)
        return "; ".join(f"{source} → {targets}" for source, targets in pairs.items())
    return ", ".join(rows.source_text if circuit == "reads" else rows.target_text)
