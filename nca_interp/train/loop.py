"""Train one run: the same accelerate loop for pre-pre-training, pre-training and fine-tuning.

Exact by construction: batch, learning rate and initial weights are functions of (seeds, step), so the resumable state
is weights + AdamW moments + step. The gradient is that of the mean over all supervised tokens of the global batch,
however it is split over processes and micro-batches.
"""

from __future__ import annotations

import json
import logging
import math
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from nca_interp.base import RunFailed, UserError, stream_seed
from nca_interp.data.tokens import TokenFile
from nca_interp.model.checkpoint import load_model, save_model
from nca_interp.model.llama import build
from nca_interp.model.swap import swap
from nca_interp.store import RunDir, StudyDir, damage, write_json, write_text
from nca_interp.train.batches import batch_rows, learning_rate
from nca_interp.train.guard import claim, claim_inputs, locked, signals
from nca_interp.train.run import RunConfig
from nca_interp.train.state import load_state, save_state

IGNORE = -100
logger = logging.getLogger(__name__)


class Stopped(Exception):
    """The run was asked to stop; its state is saved. `signal` is the signal's number."""

    def __init__(self, signal_number: int, step: int) -> None:
        super().__init__(f"stopped by signal {signal_number} after step {step}")
        self.signal = signal_number
        self.step = step


@dataclass
class Loop:
    """Everything the loop needs and changes."""

    study: StudyDir
    run: RunDir
    config: RunConfig
    accelerator: Accelerator
    tokens: TokenFile
    model: Any
    optimizer: Any
    step: int = 0
    clock: float = field(default_factory=time.perf_counter)
    val: dict[str, float | None] = field(default_factory=dict)

    @property
    def main(self) -> bool:
        """Whether this process writes the files."""
        return self.accelerator.is_main_process

    @property
    def prefix(self) -> int:
        """The first this many tokens of a row are no targets."""
        return 0 if self.config.config.first_frame_targets else self.tokens.meta.unsupervised_prefix

    @property
    def raw_model(self) -> Any:
        """The Hugging Face model inside the accelerate wrapper."""
        return self.accelerator.unwrap_model(self.model)


def train(study: StudyDir, config: RunConfig) -> dict[str, Any]:
    """Bring one run to its end and return its status; a finished run is recognised, an unfinished one continues.

    Raises UserError for a folder of another configuration, RunFailed where the loss is not finite or the disk is full,
    Stopped after SIGTERM or SIGINT (state saved).
    """
    run = study.run(config.id)
    with locked(run):
        claim(run, config)
        status = run.status()
        if status["state"] == "done" and (final := run.checkpoint(config.config.steps)).is_dir():
            if problem := damage(final, quick=True):
                raise UserError(f"{final}: damaged, {problem}; delete this folder, and the run is trained again")
            return status
        run.sweep()
        with signals() as received:
            loop = _set_up(study, run, config)
            try:
                _run(loop, received)
            except (RunFailed, RuntimeError) as error:
                with suppress(RunFailed):  # a full disk does not take the status either
                    run.set_status(
                        "diverged" if isinstance(error, Diverged) else "failed", loop.step, message=str(error)
                    )
                raise
        if loop.main:
            if config.stage == "ft":
                from nca_interp.train.finetune import exact_match

                write_json(run.result, exact_match(loop.raw_model, study.path / config.tokens))
            run.set_status("done", loop.step)
            run.prune_states(loop.step, 0, config.config.state_steps)  # a finished run is never resumed
        return run.status()


class Diverged(RunFailed):
    """The loss or a gradient is not finite."""


def _set_up(study: StudyDir, run: RunDir, config: RunConfig) -> Loop:
    stage = config.config
    accelerator = Accelerator(mixed_precision="bf16" if config.precision == "bf16" else "no")
    if stage.batch_size % accelerator.num_processes:
        raise UserError(f"batch_size: {stage.batch_size} is not divisible by {accelerator.num_processes} processes")
    tokens = TokenFile.open(study.path / config.tokens)
    if tokens.meta.seq_len != config.model.n_ctx:
        raise UserError(f"{config.tokens}: rows of {tokens.meta.seq_len} tokens do not fit n_ctx {config.model.n_ctx}")
    if len(tokens.train) < stage.batch_size:
        raise UserError(
            f"{config.tokens}: {len(tokens.train)} training rows of {config.model.n_ctx} tokens are fewer than one batch "
            f"(batch_size {stage.batch_size}); a longer corpus or a smaller batch is needed"
        )
    model, log = initial_model(study, config, max(tokens.meta.vocab_size, stage.vocab_rows or 0))
    claim_inputs(study, run, config, tokens.meta)
    if log and accelerator.is_main_process:
        write_json(run.path / "swap.json", log)
    decayed = [p for p in model.parameters() if p.ndim >= 2 or stage.decay_norms]
    gains = [p for p in model.parameters() if p.ndim < 2 and not stage.decay_norms]
    groups = [{"params": decayed, "weight_decay": stage.weight_decay}, {"params": gains, "weight_decay": 0.0}]
    fused = accelerator.device.type in ("cpu", "cuda")
    optimizer = torch.optim.AdamW(groups, lr=stage.lr, betas=stage.betas, eps=stage.eps, fused=fused)
    model, optimizer = accelerator.prepare(model, optimizer)
    loop = Loop(study, run, config, accelerator, tokens, model, optimizer)
    loop.step, problems = load_state(run, loop.raw_model, optimizer.optimizer)
    if accelerator.is_main_process:
        for problem in problems:
            logger.warning("%s; %s continues from step %d", problem, config.id, loop.step)
        _truncate_metrics(run, loop.step)
    return loop


def initial_model(study: StudyDir, config: RunConfig, vocab_size: int) -> tuple[Any, list[dict[str, Any]]]:
    """The model before the first step of a run, and the log of the embedding swap if there was one."""
    if config.parent is None:
        return build(config.model, vocab_size, config.seeds.init, config.embedding_stream), []
    parent = study.run(config.parent)
    status = parent.status()
    if status["state"] != "done":
        raise RunFailed(f"{config.id}: its parent run {config.parent} is not finished")
    model = load_model(parent.checkpoint(status["step"]))
    if config.stage == "ft":
        return model.train(), []
    model, log = swap(model, config.model, vocab_size, config.seeds.init, config.keep, config.reinit_to)
    return model.train(), log


def _truncate_metrics(run: RunDir, step: int) -> None:
    rows = [row for row in run.read_metrics() if row["step"] <= step and step > 0]
    write_text(run.metrics, "".join(json.dumps(row) + "\n" for row in rows))


def _run(loop: Loop, received: list[int]) -> None:
    stage = loop.config.config
    checkpoints = set(stage.checkpoint_steps())
    if loop.main:
        loop.run.set_status("running", loop.step)
    if loop.step == 0:
        _validate(loop)
        _log(loop, loss=loop.val["val_loss"], grad_norm=None)
        _checkpoint(loop)
    loop.clock = time.perf_counter()
    while loop.step < stage.steps:
        loss, grad_norm = _update(loop)
        loop.step += 1
        if not math.isfinite(loss) or not math.isfinite(grad_norm):
            raise Diverged(f"{loop.config.id}: loss {loss}, gradient norm {grad_norm} at step {loop.step}")
        loop.val = {}
        if loop.step % stage.eval_every == 0 or loop.step == stage.steps:
            _validate(loop)
        _log(loop, loss, grad_norm)
        if loop.step in checkpoints:
            _checkpoint(loop)
        stop = _agreed_signal(loop, received)
        if loop.main and (stop or stage.saves_state(loop.step)):
            save_state(loop.run, loop.raw_model, loop.optimizer.optimizer, loop.step, stage.state_steps)
        if stop and loop.step < stage.steps:
            if loop.main:
                loop.run.set_status("stopped", loop.step, signal=stop)
            raise Stopped(stop, loop.step)


def _agreed_signal(loop: Loop, received: list[int]) -> int:
    """The signal that any process received; all processes see the same answer at the same step."""
    own = received[0] if received else 0
    if loop.accelerator.num_processes == 1:
        return own
    mine = torch.tensor(float(own), device=loop.accelerator.device)
    return int(loop.accelerator.gather(mine).max())


def _update(loop: Loop) -> tuple[float, float]:
    """One optimiser step; returns (training loss in nats a token, gradient norm before clipping)."""
    accelerator, stage = loop.accelerator, loop.config.config
    rate = learning_rate(
        loop.step,
        steps=stage.horizon or stage.steps,
        lr=stage.lr,
        warmup=stage.warmup,
        schedule=stage.schedule,
        min_lr_ratio=stage.min_lr_ratio,
    )
    for group in loop.optimizer.param_groups:
        group["lr"] = rate
    inputs, targets = _my_batch(loop)
    n_targets = accelerator.reduce((targets != IGNORE).sum().float(), "sum")
    micro = stage.micro_batch or len(inputs)
    parts = list(zip(inputs.split(micro), targets.split(micro), strict=True))
    total = torch.zeros((), device=accelerator.device)
    for index, (x, y) in enumerate(parts):
        last = index == len(parts) - 1
        with nullcontext() if last else accelerator.no_sync(loop.model):
            loss = _nll_sum(loop.model, x, y) / n_targets
            accelerator.backward(loss * accelerator.num_processes)  # DDP averages over processes
        total += loss.detach()
    parameters = list(loop.model.parameters())
    norm = torch.nn.utils.clip_grad_norm_(parameters, stage.clip if stage.clip is not None else math.inf)
    if torch.isfinite(norm):
        loop.optimizer.step()
    loop.optimizer.zero_grad(set_to_none=True)
    return float(accelerator.reduce(total, "sum")), float(norm)


def _nll_sum(model: Any, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=inputs, use_cache=False).logits
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum")


def _my_batch(loop: Loop) -> tuple[torch.Tensor, torch.Tensor]:
    """This process's share of the global batch: inputs and targets, each [batch, n_ctx]."""
    config, accelerator = loop.config, loop.accelerator
    seed = stream_seed(config.seeds.order, "order", config.stage)
    rows = batch_rows(len(loop.tokens.train), config.config.batch_size, seed, loop.step)
    share = config.config.batch_size // accelerator.num_processes
    mine = rows[accelerator.process_index * share :][:share]
    mask = loop.tokens.train_mask
    x, y = to_tensors(loop.tokens.train[mine], loop.prefix, None if mask is None else mask[mine])
    return x.to(accelerator.device), y.to(accelerator.device)


def to_tensors(rows: np.ndarray, prefix: int, mask: np.ndarray | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of n_ctx + 1 tokens to (inputs, targets); the first `prefix` tokens of a row, and masked ones, are no targets."""
    tokens = torch.from_numpy(np.ascontiguousarray(rows).astype(np.int64))
    targets = tokens.clone()
    targets[:, :prefix] = IGNORE
    if mask is not None:
        targets[torch.from_numpy(np.ascontiguousarray(mask)) == 0] = IGNORE
    return tokens[:, :-1].contiguous(), targets[:, 1:].contiguous()


@torch.no_grad()
def _validate(loop: Loop) -> None:
    """Mean loss over all validation rows, split over the processes; nats a token and bits a byte."""
    accelerator, meta = loop.accelerator, loop.tokens.meta
    rows, mask = loop.tokens.val, loop.tokens.val_mask
    micro = loop.config.config.micro_batch or loop.config.config.batch_size
    sums = torch.zeros(2, dtype=torch.float64)
    loop.model.eval()
    mine = np.arange(len(rows))[accelerator.process_index :: accelerator.num_processes]
    for start in range(0, len(mine), micro):
        index = mine[start : start + micro]
        x, y = to_tensors(rows[index], loop.prefix, None if mask is None else mask[index])
        nll = _nll_sum(loop.raw_model, x.to(accelerator.device), y.to(accelerator.device))
        sums += torch.tensor([float(nll), float((y != IGNORE).sum())], dtype=torch.float64)
    loop.model.train()
    total = accelerator.reduce(sums.to(accelerator.device, torch.float32), "sum").double()
    loss = float(total[0] / total[1])
    bits = loss / math.log(2) / meta.bytes_per_token if meta.bytes_per_token else None
    loop.val = {"val_loss": loss, "val_bpb": bits}


def _log(loop: Loop, loss: float | None, grad_norm: float | None) -> None:
    if not loop.main:
        return
    now, stage = time.perf_counter(), loop.config.config
    per_step = stage.batch_size * loop.config.model.n_ctx
    row = {
        "step": loop.step,
        "tokens": loop.step * per_step,
        "loss": loss,
        "val_loss": loop.val.get("val_loss"),
        "val_bpb": loop.val.get("val_bpb"),
        "grad_norm": grad_norm,
        "lr": loop.optimizer.param_groups[0]["lr"] if loop.step else 0.0,
        "tokens_per_second": round(per_step / (now - loop.clock), 1) if loop.step else None,
    }
    loop.clock = now
    loop.run.append_metrics(row)


def _checkpoint(loop: Loop) -> None:
    loop.accelerator.wait_for_everyone()
    if not loop.main:
        return
    config = loop.config
    tokenizer = loop.study.path / config.tokens / "tokenizer.json"
    provenance = {
        "run": config.id,
        "stage": config.stage,
        "regime": config.regime,
        "domain": config.domain,
        "seed": config.seed,
        "seeds": config.seeds.model_dump(),
        "step": loop.step,
        "tokens": loop.step * config.config.batch_size * config.model.n_ctx,
        "tokens_dir": config.tokens,
        "vocab_size": loop.tokens.meta.vocab_size,
        "meta": loop.tokens.meta.model_dump(mode="json"),
        "precision": config.precision,
    }
    path = loop.run.checkpoint(loop.step)
    save_model(loop.raw_model, path, provenance, tokenizer if tokenizer.is_file() else None)
