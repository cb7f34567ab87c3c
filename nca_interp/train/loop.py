"""Train one run: the same loop for pre-pre-training, pre-training and fine-tuning.

Exact by construction: batch, learning rate and initial weights are functions of (seeds, step), and what is judged of a
step depends on the metrics before it, so the resumable state is weights + AdamW moments + step. The gradient is that of
the mean over all supervised tokens of the global batch, however it is split over processes and micro-batches.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

import torch

from nca_interp.base import RunFailed, UserError
from nca_interp.model.checkpoint import load_model
from nca_interp.signals import collected
from nca_interp.store import RunDir, StudyDir, damage, write_record
from nca_interp.train.guard import claim, locked
from nca_interp.train.health import Diverged
from nca_interp.train.loop_state import Loop
from nca_interp.train.micro import halve
from nca_interp.train.record import checkpoint, keep_state, record_start, record_step
from nca_interp.train.run import RunConfig
from nca_interp.train.setup import prepared
from nca_interp.train.update import Step, update
from nca_interp.train.validate import keep_row_losses, validate

logger = logging.getLogger(__name__)
Report = Callable[[str, float], None]


class Stopped(Exception):
    """The run was asked to stop; its state is saved. `signal` is the signal's number."""

    def __init__(self, signal_number: int, step: int) -> None:
        super().__init__(f"stopped by signal {signal_number} after step {step}")
        self.signal = signal_number
        self.step = step


def train(
    study: StudyDir, config: RunConfig, smaller: bool = False, say: Report = lambda what, share: None
) -> dict[str, Any]:
    """Bring one run to its end and return its status; a finished run is recognised, an unfinished one continues, with half the
    micro-batch from now on where it is to be `smaller`. `say(what, share done)`: of what comes after the last step.

    Raises UserError for a folder of another configuration, RunFailed where the loss is not finite or the disk is full,
    Stopped after SIGTERM or SIGINT (state saved).
    """
    run = study.run(config.id)
    with locked(run):
        claim(run, config)
        if (status := _finished(run, config)) is not None:
            return status
        if smaller:
            rows = halve(run.micro_batch, config.config.rows_at_once, config.config.batch_size)
            logger.warning("%s goes on with a micro-batch of %d", config.id, rows)
        with collected(insisted=_interrupt) as received, prepared(study, run, config) as loop:
            try:
                stop = _run(loop, received)
            except (RunFailed, RuntimeError) as error:
                with suppress(RunFailed):  # a full disk does not take the status either
                    state = "diverged" if isinstance(error, Diverged) else "failed"
                    run.set_status(state, loop.step, message=str(error))
                raise
        if loop.main:
            _finish(loop, say)
        if stop:
            raise Stopped(stop, loop.step)
        return run.status()


def _interrupt() -> NoReturn:
    raise KeyboardInterrupt


def _finished(run: RunDir, config: RunConfig) -> dict[str, Any] | None:
    final = run.checkpoint(config.config.steps)
    if not run.status_file.exists():  # lost: whatever state there is says where to go on
        return None
    status = run.status()
    if status["state"] != "done" or not final.is_dir():
        return None
    if problem := damage(final, quick=True):
        raise UserError(f"{final}: damaged, {problem}; delete this folder, and the run is trained again")
    return status


def _run(loop: Loop, received: list[int]) -> int:
    """Take all steps that are left; returns the signal that asked to stop at the last one, or 0."""
    stage, checkpoints = loop.config.config, set(loop.config.config.checkpoint_steps())
    if loop.main:
        loop.run.set_status("running", loop.step)
    if loop.step == 0:
        loop.val = validate(loop)
        record_start(loop)
        checkpoint(loop)
    stop = 0
    while loop.step < stage.steps:
        begin, waited = time.perf_counter(), loop.loader.waited
        step = update(loop)
        seconds, waited = time.perf_counter() - begin, loop.loader.waited - waited
        loop.step += 1
        problem = loop.health.problem(step.verdict)
        due = loop.step % stage.eval_every == 0 or loop.step == stage.steps
        loop.val = validate(loop) if due and not problem else {}
        record_step(loop, step, seconds, waited)
        if problem:
            raise Diverged(_describe(loop, step, problem))
        if loop.step == stage.steps and loop.config.stage == "pt":
            keep_row_losses(loop)
        if loop.step in checkpoints:
            checkpoint(loop)
        stop = _agreed_signal(loop, received)
        if stop or stage.saves_state(loop.step):
            keep_state(loop)
        if stop and loop.step < stage.steps:
            if loop.main:
                loop.run.set_status("stopped", loop.step, signal=stop)
            raise Stopped(stop, loop.step)
    return stop


def _describe(loop: Loop, step: Step, problem: str) -> str:
    return f"{loop.config.id}: loss {step.loss:.6g}, gradient norm {step.grad_norms['total']:.6g} at step {loop.step}: {problem}"


def _agreed_signal(loop: Loop, received: list[int]) -> int:
    """The signal that any process received; all processes see the same answer at the same step."""
    own = received[0] if received else 0
    if loop.execution.processes == 1:
        return own
    mine = torch.tensor([float(own)], device=loop.accelerator.device)
    return int(loop.accelerator.gather(mine).max())


def _finish(loop: Loop, say: Report) -> None:
    run, config = loop.run, loop.config
    if config.stage == "ft":
        from nca_interp.train.finetune import chosen_step, exact_match

        how = loop.tokens.meta.spec.get("choose", "last")
        step = chosen_step(run, config.config.checkpoint_steps(), how)
        # the checkpoint, since the model at hand may be sharded
        model: Any = load_model(run.checkpoint(step))
        found = exact_match(model.to(loop.accelerator.device), loop.study.path / config.tokens, say=say)
        passes = config.config.steps * config.config.batch_size / len(loop.tokens.train)
        chosen = {} if how == "last" else {"step": step, "chosen": how}
        write_record(run.result, {**found, **chosen, "passes": round(passes, 3)})
    run.set_done(loop.step)
    run.prune_states(loop.step, 0, config.config.state_steps)  # a finished run is never resumed
