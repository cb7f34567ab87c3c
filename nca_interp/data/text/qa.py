"""Question-answer pairs for fine-tuning: one problem a row, the loss on the answer only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from nca_interp.base import UserError, digest
from nca_interp.data.specs import END, PAD, QaSpec
from nca_interp.data.text import inputs
from nca_interp.data.text.arithmetic import Problem, word_problems
from nca_interp.data.text.documents import token_dtype
from nca_interp.data.text.files import match_files, read_records
from nca_interp.data.tokens import GENERATOR_VERSION, TokenFile, TokenMeta, build
from nca_interp.store import sha256_file, write_text

MARK = "####"
"""Stands before the final answer (GSM8K)."""


class QaSet(NamedTuple):
    """Problems of each split; no question is in two of them."""

    train: list[Problem]
    val: list[Problem]
    test: list[Problem]
    dropped: dict[str, int]
    """Counts: duplicates, problems without a final answer, and training problems that were also in the test source."""


def qa_prompt(question: str) -> str:
    """What the model is given before it answers; the answer follows after one space."""
    return f"Question: {question}\nAnswer:"


def generate_qa(spec: QaSpec, seed: int) -> QaSet:
    """Problems of a specification, split by the hash of their question. Raises UserError if there are too few."""
    if spec.source == "arithmetic":
        # a bounded stream: small sizes have few different problems
        wanted = spec.n_train + spec.n_val + spec.n_test
        problems: Iterator[Problem] = islice(word_problems(spec.arithmetic, seed), 20 * wanted)
        pool, duplicates = _unique(problems, wanted)
        unanswered = 0
    else:
        found, unanswered = _read(spec.source)
        pool, duplicates = _unique(iter(found))
    dropped = {"duplicates": duplicates, "no_answer": unanswered, "also_in_test": 0}
    if spec.test_source is None:
        pool.sort(key=lambda p: digest([seed, p.question]))
        test, pool = pool[: spec.n_test], pool[spec.n_test :]
    else:
        found, unanswered = _read(spec.test_source)
        dropped["no_answer"] += unanswered
        test, _ = _unique(iter(found), spec.n_test)
        held_out = {p.question for p in test}
        kept = [p for p in pool if p.question not in held_out]
        dropped["also_in_test"] = len(pool) - len(kept)
        pool = sorted(kept, key=lambda p: digest([seed, p.question]))
    val, train = pool[: spec.n_val], pool[spec.n_val : spec.n_val + spec.n_train]
    if not train or len(val) < spec.n_val or len(test) < spec.n_test:
        raise UserError(
            f"source: {spec.source!r} gives {len(train)} training, {len(val)} validation and {len(test)} test problems; "
            f"at least 1, {spec.n_val} (n_val) and {spec.n_test} (n_test) are needed"
            + (
                f'; {dropped["no_answer"]:,} with nothing after the last "{MARK}" were left out'
                if dropped["no_answer"]
                else ""
            )
        )
    return QaSet(train, val, test, dropped)


def _unique(problems: Iterator[Problem], wanted: int | None = None) -> tuple[list[Problem], int]:
    seen: dict[str, Problem] = {}
    duplicates = 0
    for problem in problems:
        duplicates += problem.question in seen
        seen.setdefault(problem.question, problem)
        if wanted is not None and len(seen) == wanted:
            break
    return list(seen.values()), duplicates


def _read(source: str) -> tuple[list[Problem], int]:
    """Problems of the files, and how many were passed over because nothing stands after their last mark."""
    problems: list[Problem] = []
    unanswered = 0
    for path in match_files(source.removeprefix("files:")):
        for number, record in enumerate(read_records(path), 1):
            question, answer = record.get("question"), record.get("answer")
            if not isinstance(question, str) or not isinstance(answer, str) or MARK not in answer:
                raise UserError(
                    f'{path}: record {number} needs "question" and "answer" with the final answer after "{MARK}"'
                )
            if final := answer.rpartition(MARK)[2].strip():
                problems.append(Problem(question.strip(), answer.strip(), final))
            else:
                unanswered += 1
    return problems, unanswered


def write_qa(directory: Path, spec: QaSpec, tokenizer: Path, *, seq_len: int, seed: int) -> TokenMeta:
    """Build a token directory of question-answer rows, complete or not at all (reused like `write_tokens`).

    `tokenizer` is a token directory of text (or a tokenizer.json). A row is prompt, answer and end token, padded on the
    right; train_mask.bin and val_mask.bin (uint8) are 1 on the answer and its end token. test.jsonl holds prompt,
    question, answer and final_answer of the held-out problems. A problem longer than a row, or without a final answer, is
    dropped and counted (`notes.notes` says it).
    """
    file = tokenizer / "tokenizer.json" if tokenizer.is_dir() else tokenizer
    if not file.is_file():
        raise UserError(f"{file}: no such tokenizer")
    meta = TokenFile.open(tokenizer, verify=False).meta if tokenizer.is_dir() else None
    request = {
        "spec": spec.model_dump(mode="json"), "seq_len": seq_len, "seed": seed, "tokenizer": sha256_file(file),
        "generator_version": GENERATOR_VERSION,
    }  # fmt: skip
    return build(directory, request, lambda folder: _fill(folder, spec, file, meta, seq_len, seed))


def _fill(folder: Path, spec: QaSpec, file: Path, text: TokenMeta | None, seq_len: int, seed: int) -> dict[str, Any]:
    coder = Tokenizer.from_file(str(file))
    coder.encode_special_tokens = True
    # a tokenizer.json alone does not say what its tokens are for
    end = text.end_id if text else coder.token_to_id(END)
    if end is None:
        raise UserError(f"{file}: has no {END} token")
    pad = coder.token_to_id(PAD)
    vocab = max(coder.get_vocab(with_added_tokens=True).values()) + 1
    sources = inputs.state(inputs.source_files(spec.model_dump()))
    qa = generate_qa(spec, seed)
    dtype = token_dtype(vocab)
    rows, long = {}, {}
    for split, problems in (("train", qa.train), ("val", qa.val)):
        encoded = [_encode(coder, problem, end) for problem in problems]
        fitting = [item for item in encoded if len(item[0]) <= seq_len + 1]
        rows[split], long[split] = len(fitting), len(problems) - len(fitting)
        if not fitting:
            unanswered = qa.dropped["no_answer"]
            left = f' ({unanswered:,} with nothing after the last "{MARK}" were left out before)' if unanswered else ""
            raise UserError(f"n_ctx: no {split} problem fits a row of {seq_len + 1} tokens; use a longer context{left}")
        tokens = np.full((len(fitting), seq_len + 1), end if pad is None else pad, dtype)
        mask = np.zeros(tokens.shape, np.uint8)
        for row, (ids, start) in enumerate(fitting):
            tokens[row, : len(ids)] = ids
            mask[row, start : len(ids)] = 1
        tokens.tofile(folder / f"{split}.bin")
        mask.tofile(folder / f"{split}_mask.bin")
    write_text(folder / "tokenizer.json", coder.to_str(pretty=True))
    prompts = [coder.encode(qa_prompt(p.question), add_special_tokens=False).ids for p in qa.test]
    long["test"] = sum(len(ids) >= seq_len for ids in prompts)
    items = [
        {"prompt": qa_prompt(p.question), "question": p.question, "answer": p.answer, "final_answer": p.final}
        for p in qa.test
    ]
    (folder / "test.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    source = "generated arithmetic word problems" if spec.source == "arithmetic" else f"problems of {spec.source}"
    return {
        "vocab_size": vocab, "dtype": dtype.name, "n_train": rows["train"], "n_val": rows["val"],
        "unsupervised_prefix": 0, "mask_rule": "file", "end_id": end,
        "bos_id": text.bos_id if text else None, "pad_id": text.pad_id if text else pad,
        "provenance": {"files": inputs.record(sources, {name: size for name, size, _ in sources}), **qa.dropped, "too_long": long, "n_test": len(qa.test)},
        "description": f"question-answer pairs, loss on the answers only: {source}",
    }  # fmt: skip


def _encode(coder: Tokenizer, problem: Problem, end: int) -> tuple[list[int], int]:
    """Token ids of a problem, and where its answer begins."""
    prompt = coder.encode(qa_prompt(problem.question), add_special_tokens=False).ids
    answer = coder.encode(f" {problem.answer}", add_special_tokens=False).ids
    return [*prompt, *answer, end], len(prompt)
