"""From a run's configuration to a loop that is ready to take its next step."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator

from nca_interp.base import RunFailed, UserError, stream_seed
from nca_interp.data.tokens import TokenFile
from nca_interp.model.checkpoint import load_model, read_provenance
from nca_interp.model.fast import is_fast
from nca_interp.model.llama import build
from nca_interp.model.own_forward import training_forward
from nca_interp.model.swap import swap
from nca_interp.store import RunDir, StudyDir, sha256_file, write_text
from nca_interp.train import parallel
from nca_interp.train.allocator import keep_freed_memory
from nca_interp.train.batches import Loader
from nca_interp.train.compiling import should_compile
from nca_interp.train.elsewhere import from_checkpoint
from nca_interp.train.grafted import grafted_heads
from nca_interp.train.guard import claim_inputs
from nca_interp.train.health import Health
from nca_interp.train.loop_state import Loop
from nca_interp.train.micro import largest_micro_batch, recorded
from nca_interp.train.run import RunConfig, read_run_config
from nca_interp.train.start import record_swap
from nca_interp.train.state import load_state
from nca_interp.train.track import trackers
from nca_interp.train.update import attempt

logger = logging.getLogger(__name__)


@contextmanager
def prepared(study: StudyDir, run: RunDir, config: RunConfig) -> Iterator[Loop]:
    """The loop of a run at the step it has reached; what it holds is let go at the end.

    Raises UserError where tokens, batch or processes do not fit the configuration.
    """
    accelerator, sharded = parallel.start()
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    tokens = TokenFile.open(study.path / config.tokens)
    _check(config, tokens, accelerator, sharded)
    stage = config.config
    prefix = 0 if stage.first_frame_targets else tokens.meta.unsupervised_prefix
    initial = initial_model(study, config, max(tokens.meta.vocab_size, stage.vocab_rows or 0))
    raw_model = initial.model
    claim_inputs(study, run, config, tokens.meta)
    if config.stage == "pt" and accelerator.is_main_process:
        for one in (raw_model, initial.parent):
            if one is not None and not sharded:  # one that is to be sharded may not fit on one device
                one.to(accelerator.device)
        record_swap(study, run, config, tokens, raw_model, initial.parent, initial.log)
    del initial
    execution = _execution(config, tokens, accelerator, sharded, is_fast(raw_model.config))
    if sharded:
        parallel.shard(raw_model, accelerator.device)
    model = raw_model if sharded else accelerator.prepare_model(raw_model)
    order = stream_seed(config.seeds.order, "order", config.stage)
    loader = Loader(
        tokens,
        stage.batch_size,
        order,
        prefix,
        accelerator.process_index,
        accelerator.num_processes,
        accelerator.device,
    )
    optimizer, health = _optimizer(raw_model, config, accelerator.device), Health(stage)
    forward = training_forward(
        raw_model, config.precision, compiled=execution.compiled, checkpointing=stage.gradient_checkpointing,
        no_previous_token=stage.no_previous_token,
    )  # fmt: skip
    with forward, loader, trackers(study, config, accelerator.is_main_process) as following:
        loop = Loop(
            study, run, config, accelerator, execution, tokens, loader, model, raw_model, optimizer, health, following
        )
        _resume(loop)
        share = stage.batch_size // accelerator.num_processes
        if stage.micro_batch != "auto":  # halved, where an earlier try ran out of memory
            rows = min(execution.micro_batch, recorded(run.micro_batch, share) or execution.micro_batch)
            loop.execution = execution._replace(micro_batch=rows)
        else:
            rows = largest_micro_batch(accelerator, share, lambda n: attempt(loop, n), run.micro_batch, config.id)
            loop.execution = execution._replace(micro_batch=rows)
        yield loop


class Initial(NamedTuple):
    """The model before the first step of a run."""

    model: Any
    parent: Any = None
    """The model that a pre-training run starts from, as its last checkpoint has it."""
    log: tuple[dict[str, Any], ...] = ()
    """Of the swap, a row a tensor."""


def initial_model(study: StudyDir, config: RunConfig, vocab_size: int) -> Initial:
    """The model before the first step of a run, and what it comes from. UserError where a policy keeps rows of a vocabulary
    that is another one."""
    if config.checkpoint is not None:
        child, model, log = from_checkpoint(study, config, vocab_size, _donor(study, config))
        return Initial(child, model, tuple(log))
    if config.parent is None:
        return Initial(build(config.model, vocab_size, config.seeds.init, config.embedding_stream))
    model, checkpoint = _finished(study, config.id, config.parent, "parent")
    if config.stage == "ft":
        # its configuration names a padding token, whose row an embedding would not train
        embedding: Any = model.get_input_embeddings()
        embedding.padding_idx = None
        return Initial(model.train())
    if "keep" in (config.swap.embed, config.swap.unembed_draw):
        _same_vocabulary(study, config)
    rows = read_provenance(checkpoint).get("vocab_size")
    child, log = swap(
        model, config.model, vocab_size, config.seeds.init, config.keep, config.reinit_to, config.swap, rows,
        config.graft, grafted_heads(study, config).heads, _donor(study, config),
    )  # fmt: skip
    return Initial(child.train(), model, tuple(log))


def _donor(study: StudyDir, config: RunConfig) -> Any:
    """The model that gives weights to a graft, if one does."""
    return None if config.donor is None else _finished(study, config.id, config.donor, "donor")[0]


def _finished(study: StudyDir, run_id: str, before: str, what: str) -> tuple[Any, Path]:
    """The model at the end of a run that another one builds on, and its checkpoint."""
    run = study.run(before)
    status = run.status()
    if status["state"] != "done":
        raise RunFailed(f"{run_id}: its {what} run {before} is not finished")
    checkpoint = run.checkpoint(status["step"])
    try:
        return load_model(checkpoint), checkpoint
    except UserError as error:
        raise UserError(f"{error}; delete this folder, and {before} is trained again") from None


def _same_vocabulary(study: StudyDir, config: RunConfig) -> None:
    """UserError where token ids do not mean the same in both stages."""
    assert config.parent is not None
    before, after = (
        study.path / tokens / "tokenizer.json"
        for tokens in (read_run_config(study.run(config.parent)).tokens, config.tokens)
    )
    if before != after and not (before.is_file() and after.is_file() and sha256_file(before) == sha256_file(after)):
        raise UserError(
            f"{config.id}: swap.embed: keep: the vocabularies of {before.parent.name} and {after.parent.name} differ; "
            "legal: normal, match_rms, match_gaussian, resample"
        )


def _check(config: RunConfig, tokens: TokenFile, accelerator: Accelerator, sharded: bool) -> None:
    stage, processes = config.config, accelerator.num_processes
    if stage.batch_size % processes:
        raise UserError(f"batch_size: {stage.batch_size} is not divisible by {processes} processes")
    share = stage.batch_size // processes
    if isinstance(stage.micro_batch, int) and share % min(share, stage.micro_batch):
        raise UserError(
            f"micro_batch: {stage.micro_batch} does not divide {share}, the sequences of each of {processes} processes"
        )
    if stage.micro_batch == "auto" and sharded:
        raise UserError("micro_batch: auto does not go with --shard, where no process can try alone; give a number")
    if tokens.meta.seq_len != config.model.n_ctx:
        raise UserError(f"{config.tokens}: rows of {tokens.meta.seq_len} tokens do not fit n_ctx {config.model.n_ctx}")
    if len(tokens.train) < stage.batch_size:
        raise UserError(
            f"{config.tokens}: {len(tokens.train)} training rows of {config.model.n_ctx} tokens are fewer than one batch "
            f"(batch_size {stage.batch_size}); a longer corpus or a smaller batch is needed"
        )


def _execution(
    config: RunConfig, tokens: TokenFile, accelerator: Accelerator, sharded: bool, fast: bool
) -> parallel.Execution:
    stage, device = config.config, accelerator.device.type
    flops = stage.steps * stage.batch_size * config.model.n_ctx * config.model.flops_per_token(tokens.meta.vocab_size)
    return parallel.Execution(
        device=device,
        processes=accelerator.num_processes,
        sharded=sharded,
        compiled=fast and should_compile(config.compile, flops, device, config.id),
        micro_batch=min(stage.rows_at_once, stage.batch_size // accelerator.num_processes),
        forward="fast" if fast else "transformers",
    )


def _optimizer(model: Any, config: RunConfig, device: torch.device) -> torch.optim.Optimizer:
    stage = config.config
    decayed = [p for p in model.parameters() if p.ndim >= 2 or stage.decay_norms]
    gains = [p for p in model.parameters() if p.ndim < 2 and not stage.decay_norms]
    groups = [{"params": decayed, "weight_decay": stage.weight_decay}, {"params": gains, "weight_decay": 0.0}]
    fused = device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=stage.lr, betas=stage.betas, eps=stage.eps, fused=fused)


def _resume(loop: Loop) -> None:
    loop.step, problems = load_state(loop.run, loop.raw_model, loop.optimizer)
    if loop.main:
        if loop.step:
            problems += loop.run.lost(loop.config.config.checkpoint_steps(), loop.step)
        for problem in problems:
            logger.warning("%s; %s continues from step %d", problem, loop.config.id, loop.step)
        rows = [row for row in loop.run.read_metrics() if row["step"] <= loop.step and loop.step > 0]
        write_text(loop.run.metrics, "".join(json.dumps(row) + "\n" for row in rows))
    loop.accelerator.wait_for_everyone()
    loop.health.recall(loop.run.read_metrics())
