"""Question-answer pairs for fine-tuning: one problem a row, the loss on the answer only."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from nca_interp.base import UserError, digest, stream_seed
from nca_interp.data.puzzles import questions
from nca_interp.data.specs import PAD, QaSpec, TextSpec
from nca_interp.data.text import inputs
from nca_interp.data.text.arithmetic import Problem, word_problems
from nca_interp.data.text.documents import token_dtype
from nca_interp.data.text.files import match_files, read_records
from nca_interp.data.text.tokenizer import open_tokenizer
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
    if spec.source == "arithmetic" or spec.puzzle is not None:
        # a bounded stream: small sizes have few different problems
        wanted = spec.n_train + spec.n_val + spec.n_test
        endless = word_problems(spec.arithmetic, seed) if spec.puzzle is None else _puzzle_problems(*spec.puzzle, seed)
        problems: Iterator[Problem] = islice(endless, 20 * wanted)
        pool, duplicates = _unique(problems, wanted)
        unanswered = 0
    else:
        found, unanswered = _read(spec, spec.source, spec.split)
        pool, duplicates = _unique(iter(found))
    dropped = {"duplicates": duplicates, "no_answer": unanswered, "also_in_test": 0}
    if spec.test_source is None:
        pool.sort(key=lambda p: digest([seed, p.question]))
        test, pool = pool[: spec.n_test], pool[spec.n_test :]
    else:
        found, unanswered = _read(spec, spec.test_source, spec.test_split)
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
            + (f"; {dropped['no_answer']:,} {lacking(spec.mark)} were left out" if dropped["no_answer"] else "")
        )
    return QaSet(train, val, test, dropped)


def _puzzle_problems(name: str, level: int, seed: int) -> Iterator[Problem]:
    """Generated questions, the answer behind the mark."""
    return (Problem(made.question, f"{MARK} {made.answer}", made.answer) for made in questions(name, level, seed))


def _unique(problems: Iterator[Problem], wanted: int | None = None) -> tuple[list[Problem], int]:
    seen: dict[str, Problem] = {}
    duplicates = 0
    for problem in problems:
        duplicates += problem.question in seen
        seen.setdefault(problem.question, problem)
        if wanted is not None and len(seen) == wanted:
            break
    return list(seen.values()), duplicates


def _read(spec: QaSpec, source: str, split: str) -> tuple[list[Problem], int]:
    """Problems of files or of a set of the hub, and how many were passed over because they hold no final answer."""
    problems: list[Problem] = []
    unanswered = 0
    for place, record in _records(source, split):
        question, answer = record.get(spec.question_column), record.get(spec.answer_column)
        answer = str(answer) if isinstance(answer, int | float) and not isinstance(answer, bool) else answer
        if not isinstance(question, str) or not isinstance(answer, str) or (spec.mark or "") not in answer:
            behind = f' with the final answer after "{spec.mark}"' if spec.mark else ""
            raise UserError(f'{place} needs "{spec.question_column}" and "{spec.answer_column}"{behind}')
        if final := (answer.rpartition(spec.mark)[2] if spec.mark else answer).strip():
            problems.append(Problem(question.strip(), _marked(answer, spec.mark), final))
        else:
            unanswered += 1
    return problems, unanswered


def _marked(answer: str, mark: str | None) -> str:
    """An answer with our mark before its final part, which is what `exact_match` looks for."""
    return f"{MARK} {answer.strip()}" if mark is None else answer.replace(mark, MARK).strip()


def _opened(data: Any, file: int, done: int) -> Iterator[Any]:
    """Rows of one file of a hub data set after the first `done`."""
    from nca_interp.data.text.hub import open_rows

    return open_rows(data.rows(), int(data.found["files"]), file, done)


def _records(source: str, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Records, each with how a message names it."""
    if source.startswith("files:"):
        for path in match_files(source.removeprefix("files:")):
            yield from ((f"{path}: record {number}", record) for number, record in enumerate(read_records(path), 1))
        return
    from nca_interp.data.text.hub import HubDataset, persist

    data = HubDataset(TextSpec(source=source, split=split))
    for file in range(int(data.found["files"])):
        rows = persist(partial(_opened, data, file))
        yield from ((f"{source}: row {number} of file {file + 1}", dict(row)) for number, row in enumerate(rows, 1))


def lacking(mark: str | None) -> str:
    """What a problem without a final answer lacks."""
    return f'with nothing after the last "{mark}"' if mark else "with an empty answer"


def context(problems: list[Problem], shots: int, seed: int, question: str) -> str:
    """`shots` of these problems with their answers, none of which asks `question`: what stands before its prompt."""
    if not shots:
        return ""
    rng = random.Random(stream_seed(seed, "context examples", question))
    drawn = rng.sample(range(len(problems)), min(len(problems), shots + 1))
    chosen = [problems[i] for i in drawn if problems[i].question != question][:shots]
    return "".join(f"{qa_prompt(p.question)} {p.answer}\n\n" for p in chosen)


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
    end = text.end_id if text else open_tokenizer(file).end_id
    if end is None:
        raise UserError(f"{file}: nothing says which of its tokens ends a text")
    pad = coder.token_to_id(PAD)
    vocab = max(coder.get_vocab(with_added_tokens=True).values()) + 1
    sources = inputs.state(inputs.source_files(spec.model_dump()))
    qa = generate_qa(spec, seed)
    dtype = token_dtype(vocab)
    rows, long = {}, {}
    if spec.shots > len(qa.train) - 1:
        raise UserError(
            f"shots: {spec.shots} context examples, but there are {len(qa.train)} training problems; legal: fewer than that"
        )
    before = {p.question: context(qa.train, spec.shots, seed, p.question) for p in (*qa.train, *qa.val, *qa.test)}
    for split, problems in (("train", qa.train), ("val", qa.val)):
        encoded = [_encode(coder, problem, end, before[problem.question]) for problem in problems]
        fitting = [item for item in encoded if len(item[0]) <= seq_len + 1]
        rows[split], long[split] = len(fitting), len(problems) - len(fitting)
        if not fitting:
            unanswered = qa.dropped["no_answer"]
            left = f" ({unanswered:,} {lacking(spec.mark)} were left out before)" if unanswered else ""
            raise UserError(f"n_ctx: no {split} problem fits a row of {seq_len + 1} tokens; use a longer context{left}")
        tokens = np.full((len(fitting), seq_len + 1), end if pad is None else pad, dtype)
        mask = np.zeros(tokens.shape, np.uint8)
        for row, (ids, start) in enumerate(fitting):
            tokens[row, : len(ids)] = ids
            mask[row, start : len(ids)] = 1
        tokens.tofile(folder / f"{split}.bin")
        mask.tofile(folder / f"{split}_mask.bin")
    write_text(folder / "tokenizer.json", coder.to_str(pretty=True))
    asked = [f"{before[p.question]}{qa_prompt(p.question)}" for p in qa.test]
    long["test"] = sum(len(coder.encode(prompt, add_special_tokens=False).ids) >= seq_len for prompt in asked)
    items = [
        {"prompt": prompt, "question": p.question, "answer": p.answer, "final_answer": p.final}
        for p, prompt in zip(qa.test, asked, strict=True)
    ]
    (folder / "test.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    source = "generated arithmetic word problems" if spec.source == "arithmetic" else f"problems of {spec.source}"
    source += f", {spec.shots} context examples from the training problems" if spec.shots else ""
    return {
        "vocab_size": vocab, "dtype": dtype.name, "n_train": rows["train"], "n_val": rows["val"],
        "unsupervised_prefix": 0, "mask_rule": "file", "end_id": end,
        "bos_id": text.bos_id if text else None, "pad_id": text.pad_id if text else pad,
        "provenance": {"files": inputs.record(sources, {name: size for name, size, _ in sources}), **qa.dropped, "too_long": long, "n_test": len(qa.test)},
        "description": f"question-answer pairs, loss on the answers only: {source}",
    }  # fmt: skip


def _encode(coder: Tokenizer, problem: Problem, end: int, before: str) -> tuple[list[int], int]:
    """Token ids of a problem, and where its answer begins."""
    prompt = coder.encode(f"{before}{qa_prompt(problem.question)}", add_special_tokens=False).ids
    answer = coder.encode(f" {problem.answer}", add_special_tokens=False).ids
    return [*prompt, *answer, end], len(prompt)
