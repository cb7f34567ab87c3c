"""Evaluate one checkpoint: what is asked, by which settings, and what comes of it. Continues where it stopped."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from nca_interp.base import UserError, digest
from nca_interp.borders import border
from nca_interp.evaluate.sampling import Sampling
from nca_interp.evaluate.settings import Settings, check, load_all, sampling_of
from nca_interp.evaluate.sources import Loaded
from nca_interp.evaluate.task import Benchmark, Item

Part = tuple[int, int]
FILES = (".yaml", ".yml")
"""Definitions of the harness in files."""


class Scored(NamedTuple):
    """One problem and its answers."""

    task: str
    part: str
    kind: str
    number: int
    """Place in its part, from 0."""
    answered: int
    """0: skipped."""
    correct: int
    chance: float
    sampling: str


class Evaluation(NamedTuple):
    """What came of it."""

    scored: list[Scored]
    results: dict[str, Any]
    """As the harness makes them, with `samples`."""
    notes: list[str]


def evaluate(
    checkpoint: Path, identity: str, folder: Path, settings: Settings, part: Part | None = None, say: Any = None
) -> Evaluation | None:
    """Ask a checkpoint everything and score it; answers are kept in `folder` as they are given, and not asked for again.

    `part` (number, of): only answer every so many-th problem, and score nothing (None comes back). Raises UserError for a model
    without a tokenizer, and where no problem of a task fits its context.
    """
    from lm_eval.evaluator import evaluate as harness

    from nca_interp.evaluate.harness import Answers

    check(settings)
    loaded = load_all(settings)
    with _quiet():
        answers = Answers(folder, "all" if part is None else str(part[0]))
        groups = _by_sampling(settings, loaded, answers)
        model, opened, n_ctx = _open(checkpoint, settings)
        scored, notes, results = [], [], dict[str, Any]()
        for sampling, definitions, described in groups:
            lm = _model(model, opened, identity, n_ctx, answers, sampling, settings, described, say)
            if part is not None:
                _answer_part(lm, definitions, settings, part)
                continue
            with _foreign(definitions):
                tasks = _loaded(definitions, settings)
                found: Any = harness(lm, tasks, limit=settings.limit, bootstrap_iters=0, log_samples=True)
            scored += _scored(found, described, settings)
            notes += _notes(lm, found, described)
            _merge(results, found)
            results["config"] = _config(checkpoint, settings)
    if part is not None:
        return None
    for one in loaded:
        if one.also_asked:
            notes.append(
                f"{one.wanted.name}: {one.also_asked:,} training problems are asked as well and were no context examples"
            )
    return Evaluation(scored, results, notes)


Described = dict[str, tuple[Loaded, list[Item]]]


def _by_sampling(
    settings: Settings, loaded: list[Loaded], answers: Any
) -> Iterator[tuple[Sampling, list[Any], Described]]:
    """Tasks that are drawn alike, together: definitions for the harness, and what each of ours is."""
    from nca_interp.evaluate.definitions import definition, parts_of

    names = [(sampling_of(settings, w.benchmark), w) for w in settings.wanted]
    by_name = {one.wanted.name: one for one in loaded}
    for sampling in dict.fromkeys(s for s, _ in names):
        definitions: list[Any] = []
        described: Described = {}
        for _, w in (n for n in names if n[0] == sampling):
            if w.benchmark is None:
                definitions.append(w.name)
                continue
            for name, items in parts_of(by_name[w.name]).items():
                described[name] = by_name[w.name], items
                definitions.append(
                    definition(
                        name,
                        by_name[w.name],
                        items,
                        settings.shots,
                        sampling,
                        settings.samples,
                        settings.ks,
                        _judge(answers),
                    )
                )
        yield sampling, definitions, described


def _judge(answers: Any) -> Any:
    """Right or wrong: by comparison, of programs by running them in the sandbox, each different one once."""
    from nca_interp.evaluate.definitions import compare

    def judge(own: Benchmark, item: Item, given: Sequence[str]) -> list[bool]:
        if own.kind != "code":
            return compare(own, item, given)
        from nca_interp.evaluate.sandbox import run_all

        assert own.program is not None
        programs = [own.program(item, own.read(answer) or "") for answer in given]
        keys = [digest(["program", p]) for p in programs]
        new = {k: p for k, p in zip(keys, programs, strict=True) if k not in answers.known}
        if new:
            answers.keep(zip(new, [v.passed for v in run_all(list(new.values()))], strict=True))
        return [bool(answers.known[key]) for key in keys]

    return judge


def _open(checkpoint: Path, settings: Settings) -> tuple[Any, Any, int]:
    """Model, tokenizer and context."""
    import torch

    from nca_interp.data.text.tokenizer import has_tokenizer, open_tokenizer
    from nca_interp.machine import check_device
    from nca_interp.model.checkpoint import load_model
    from nca_interp.model.roles import context_length

    where = settings.tokenizer or checkpoint
    if settings.tokenizer is None and not has_tokenizer(checkpoint):
        raise UserError(
            f"{checkpoint}: no tokenizer there, so it cannot read problems; give --tokenizer, or a model of text"
        )
    opened = open_tokenizer(where)
    check_device(settings.device)
    model: Any = load_model(checkpoint, dtype=getattr(torch, settings.dtype))
    rows = model.get_input_embeddings().weight.shape[0]
    if (size := opened.tokenizer.get_vocab_size()) > rows:
        raise UserError(
            f"{where}: a tokenizer of {size:,} tokens; the model in {checkpoint} has {rows:,}; give its own"
        )
    return model.to(settings.device), opened, context_length(model.config.get_text_config())


def _model(
    model: Any, opened: Any, identity: str, n_ctx: int, answers: Any, sampling: Sampling, settings: Settings, described: Described, say: Any
) -> Any:  # fmt: skip
    from nca_interp.evaluate.harness import Ours

    told = {"say": say} if say is not None else {}
    return Ours(
        model, opened, digest([identity, settings.dtype, n_ctx]), n_ctx, answers, sampling=sampling, seed=settings.seed,
        batch=settings.batch, ours=frozenset(described), **told,
    )  # fmt: skip


def _loaded(definitions: list[Any], settings: Settings) -> Any:
    """The harness's tasks, as its own command prepares them; its index is read where some of its own are asked for (seconds)."""
    from lm_eval.tasks import TaskManager

    found: Any = TaskManager(
        include_defaults=any(isinstance(d, str) and not d.endswith(FILES) for d in definitions)
    ).load(definitions)
    for task in found["tasks"].values():
        if task.get_config("num_fewshot") is None or (settings.shots and task.get_config("num_fewshot") != 0):
            task.set_config(key="num_fewshot", value=settings.shots)
        task.set_fewshot_seed(seed=settings.seed)
    return found


def _foreign(definitions: list[Any]) -> Any:
    """What goes wrong in a task that is the harness's own is one sentence."""
    names = [d for d in definitions if isinstance(d, str)]
    doing = "lm-evaluation-harness cannot make it (data of the hub need the network)"
    return border(doing, f"tasks: {', '.join(names)}") if names else nullcontext()


def _answer_part(lm: Any, definitions: list[Any], settings: Settings, part: Part) -> None:
    """Answer every `part[1]`-th problem; the requests are built as the whole evaluation builds them."""
    number, of = part
    with _foreign(definitions):
        tasks = _loaded(definitions, settings)["tasks"]
    for task in tasks.values():
        task.build_all_requests(limit=settings.limit)
        mine = [i for i in task.instances if i.doc_id % of == number]
        for kind in dict.fromkeys(i.request_type for i in mine):
            getattr(lm, kind)([r for r in mine if r.request_type == kind for _ in range(r.repeats or 1)])


def _scored(found: Any, described: Described, settings: Settings) -> list[Scored]:
    rows = []
    for name, (loaded, items) in described.items():
        own = loaded.wanted.benchmark
        assert own is not None
        for sample in found["samples"][name]:
            item = items[sample["doc_id"]]
            told = (
                "likelihood"
                if own.kind == "choose"
                else own.sampling
                if settings.sampling == "published"
                else settings.sampling
            )
            rows.append(Scored(
                loaded.wanted.name, item.part, own.kind, sample["doc_id"], int(sample["answered"]), int(sample["correct"]), item.chance, told,
            ))  # fmt: skip
    return rows


def _notes(lm: Any, found: Any, described: Described) -> list[str]:
    """What was skipped or cut, in sentences. UserError where nothing of a task fits."""
    told = []
    for task, samples in found["samples"].items():
        if task in described:
            skipped = sum(not s["answered"] for s in samples)
            if skipped == len(samples):
                raise UserError(
                    f"{task}: none of its {skipped:,} problems fits the context of {lm.n_ctx:,} tokens (with context examples); use fewer "
                    "shots, or a model with a longer context"
                )
            if skipped:
                told.append(
                    f"{task}: {skipped:,} of {len(samples):,} problems do not fit the context of {lm.n_ctx:,} tokens and were skipped"
                )
        elif lm.cut[task]:
            told.append(
                f"{task}: {lm.cut[task]:,} requests were cut on the left to the context of {lm.n_ctx:,} tokens, as the harness does"
            )
    return told


def _config(checkpoint: Path, settings: Settings) -> dict[str, Any]:
    """What the harness's own command says of a run, under its names."""
    from importlib.metadata import version

    return {
        "model": "nca-interp", "model_args": {"pretrained": str(checkpoint), "dtype": settings.dtype}, "batch_size": settings.batch,
        "device": settings.device, "limit": settings.limit, "bootstrap_iters": 0, "fewshot_seed": settings.seed, "torch_seed": settings.seed,
        "gen_kwargs": {"sampling": settings.sampling, "repeats": settings.samples}, "lm_eval_version": version("lm_eval"),
    }  # fmt: skip


def _merge(into: dict[str, Any], found: dict[str, Any]) -> None:
    for key, value in found.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            into[key] = {**into[key], **value}
        else:
            into[key] = value


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's log."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
