"""A plan as a script for SLURM: an array that trains shares of it, and the jobs that analyse and report after it."""

from __future__ import annotations

import math
import re
import shlex
from pathlib import Path
from typing import NamedTuple

from nca_interp.base import UserError, duration
from nca_interp.engine.cost import UTILISATION
from nca_interp.engine.engines import Resources
from nca_interp.engine.export import Commands
from nca_interp.engine.graph import Plan
from nca_interp.engine.shares import costs, leaves
from nca_interp.engine.stands import Stand, left
from nca_interp.train.run import RunConfig

H100_FLOPS = 989e12
"""Stated dense bf16 peak: what a GPU is assumed to be where nobody says its rate."""
MARGIN, START_SECONDS, DAY = 1.5, 600.0, 86_400.0
"""Of the time limit over the estimate; for token files and the start; the longest limit where none is given: what is longer requeues itself."""
LEAD_SECONDS = 60.0
"""Before the time limit, at least, that a task is asked to save."""
COMMAND_BYTES = 1.0e9
"""Of the command itself, beside its workers: tables and the report are made there."""
LIMIT = re.compile(
    r"(?:(?P<d>\d+)-(?P<dh>\d+)(?::(?P<dm>\d+)(?::(?P<ds>\d+))?)?|(?P<a>\d+)(?::(?P<b>\d+)(?::(?P<c>\d+))?)?)"
)


class Ask(NamedTuple):
    """What is asked of the queue."""

    tasks: int
    workers: int
    threads: int
    gpus: int = 0
    """Of a task."""
    time: str | None = None
    """Limit of a task, as sbatch takes it; None: from the estimate."""
    rate: float | None = None
    """FLOP/s of the matrix products of one worker; None: measured here, or of an H100 where there are GPUs."""
    options: tuple[str, ...] = ()
    """Further options of sbatch."""


def seconds_of(text: str) -> float:
    """A time limit as sbatch takes it (minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]]). UserError for others."""
    found = LIMIT.fullmatch(text)
    if not found:
        raise UserError(
            f"--time {text}: legal: minutes, minutes:seconds, hours:minutes:seconds, days-hours:minutes:seconds"
        )
    part = {name: int(value) for name, value in found.groupdict().items() if value is not None}
    if "d" in part:
        return 86400.0 * part["d"] + 3600 * part["dh"] + 60 * part.get("dm", 0) + part.get("ds", 0)
    if "c" in part:
        return 3600.0 * part["a"] + 60 * part["b"] + part["c"]
    return 60.0 * part["a"] + part.get("b", 0)


def script(
    plan: Plan, needs: dict[str, Resources], commands: Commands, ask: Ask, folder: Path, made_by: str,
    stands: dict[str, Stand] | None = None,
) -> str:  # fmt: skip
    """The script; `needs`: of all jobs, measurements included; `stands`: how far they are, so that a share of which nothing is left gets no task. UserError for a time limit in which a run would not come from one resumable state to the next."""
    assert plan.study is not None
    _check(ask)
    ask = ask._replace(tasks=min(ask.tasks, leaves(plan)))
    rate = UTILISATION * (ask.rate or (H100_FLOPS if ask.gpus else _measured(plan, ask.threads)))
    whose = "given" if ask.rate else "assumed: an H100" if ask.gpus else "measured where this was written"
    shares = costs(plan, ask.tasks, stands)
    longest = max(shares) / (rate * ask.workers)
    runs = [job for job in plan.jobs if job.kind == "train"]
    done = sum(left(job, stands or {}) == 0 for job in runs)
    begun = f"; {done} of {len(runs)} runs are done already" if done else ""
    limit = seconds_of(ask.time) if ask.time else min(DAY, 300 * math.ceil((MARGIN * longest + START_SECONDS) / 300))
    step, interval, run = _interval(plan, rate, stands or {})
    lead = math.ceil(LEAD_SECONDS + 3 * step)
    if limit < interval + lead:
        raise UserError(
            f"--time {ask.time or duration(limit)}: shorter than the {duration(interval + lead)} or so from one resumable state of {run} to the next; "
            "legal: a longer limit, a smaller checkpoint_every, or a higher --rate where the nodes are faster"
        )
    memory = COMMAND_BYTES + sum(sorted((what.memory for what in needs.values()), reverse=True)[: ask.workers])
    gpus = f"\n#SBATCH --gpus={ask.gpus}" if ask.gpus else ""
    more = "".join(f"\n#SBATCH {option}" for option in ask.options)
    return _SCRIPT.format(
        made_by=made_by, name=plan.study.name, array=_array(shares), tasks=ask.tasks, cpus=ask.workers * ask.threads,
        memory=math.ceil(memory / 2**20), time=_clock(limit), lead=lead, more=gpus + more, folder=shlex.quote(str(folder)),
        directory=shlex.quote(str(Path.cwd())), estimate=f"{duration(longest)}, {rate / UTILISATION:.3g} FLOP/s x {UTILISATION:.0%} ({whose}){begun}",
        train=shlex.join(commands.train), analyze=shlex.join(commands.analyze), report=shlex.join(commands.report),
        workers=ask.workers, threads=ask.threads,
    )  # fmt: skip


def _check(ask: Ask) -> None:
    """UserError for an option that would not stay on its line of the script, and for a rate that is no number."""
    for option in ask.options:
        if not option.startswith("-") or len(option.splitlines()) > 1:
            raise UserError(f"--sbatch {option!r}: legal: one option of sbatch, e.g. --sbatch=--account=x")
    if ask.rate is not None and not math.isfinite(ask.rate):
        raise UserError(f"--rate {ask.rate}: legal: a number of FLOP/s")


def _measured(plan: Plan, threads: int) -> float:
    from nca_interp.machine import matmul_flops

    return matmul_flops(plan.runs[0].precision, threads)


def _interval(plan: Plan, rate: float, stands: dict[str, Stand]) -> tuple[float, float, str]:
    """(seconds of a step, seconds between two resumable states, run) of the run of which the latter are longest, of those not done."""
    runs = [(job, job.payload) for job in plan.jobs if isinstance(job.payload, RunConfig)]
    found = [
        (job.flops / run.config.steps / rate, min(run.config.checkpoint_every, run.config.steps), run.id)
        for job, run in [(job, run) for job, run in runs if left(job, stands)] or runs
    ]
    step, steps, name = max(found, key=lambda one: one[0] * one[1])
    return step, step * steps, name


def _array(shares: list[float]) -> str:
    """Places of the shares of which something is left, as sbatch takes them; the first one where nothing is, for what comes after."""
    places = [place for place, flops in enumerate(shares) if flops > 0] or [0]
    if places == list(range(len(shares))):
        return f"0-{places[-1]}"
    return ",".join(map(str, places))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours // 24}-{hours % 24:02}:{minutes:02}:{rest:02}" if hours >= 24 else f"{hours:02}:{minutes:02}:{rest:02}"
    )


_SCRIPT = """#!/bin/bash
# {made_by}
# sbatch THIS_FILE: an array trains, its first task submits what comes after it (analysis, report). The longest share: about {estimate}.
# Logs: {name}-*.log in the working directory. nca-interp watch {folder} shows all jobs.
#SBATCH --job-name={name}
#SBATCH --array={array}
#SBATCH --ntasks=1 --cpus-per-task={cpus} --mem={memory}M
#SBATCH --time={time}
#SBATCH --requeue --open-mode=append
#SBATCH --signal=B:USR1@{lead}
#SBATCH --chdir={directory}
#SBATCH --output=%x-%A_%a.log{more}

stage="${{NCA_INTERP_STAGE:-train}}"
child='' interrupted=0 requeue=0
# the time is nearly over: save, then take a place in the queue again. TERM is scancel or preemption: save, and whoever sent it decides.
trap 'interrupted=1 requeue=1; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null' USR1
trap 'interrupted=1; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null' TERM

run() {{ # in the background, since bash heeds no signal before a command in the foreground has ended
  code=143
  [ "$interrupted" = 0 ] || return "$code"
  "$@" &
  child=$!
  [ "$interrupted" = 0 ] || kill -TERM "$child" 2>/dev/null # asked while it started
  until wait "$child"; ! kill -0 "$child" 2>/dev/null; do :; done
  wait "$child"; code=$? # as it ended, also where a signal came at that moment
  child=''
  return "$code"
}}

after() {{ # STAGE DEPENDENCY: submit a later stage of this file
  NCA_INTERP_STAGE="$1" sbatch --parsable --array=0 --dependency="$2" --job-name="{name}-$1" "$0"
}}

later="{name}-$SLURM_ARRAY_JOB_ID.later" # the jobs that come after; a task that starts again submits them where it had no time to
case "$stage" in
  train)
    if [ "$SLURM_ARRAY_TASK_ID" = "$SLURM_ARRAY_TASK_MIN" ] && [ ! -e "$later" ]; then
      analysis="$(after analyze "afterany:$SLURM_ARRAY_JOB_ID")" &&
        report="$(after report "afterok:${{analysis%%;*}}")" &&
        echo "analysis $analysis, report $report" | tee "$later"
    fi
    run {train} --share "$SLURM_ARRAY_TASK_ID/{tasks}" --workers {workers} --threads {threads} ;;
  analyze) # first what a lost task left; nothing where all is trained
    run {train} --workers {workers} --threads {threads}
    [ "$code" = 143 ] || run {analyze} --workers {workers} --threads {threads} ;;
  report)
    run {report} ;;
esac
if [ "$code" = 143 ] && [ "$requeue" = 1 ]; then
  scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
fi
exit "$code"
"""
