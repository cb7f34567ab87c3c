"""`nca-interp train` of a phase diagram: the first seeds of every cell, then one more wherever the sign is least certain."""

from __future__ import annotations

import math
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nca_interp.cli.plan import check_folder
from nca_interp.cli.running import run_plan
from nca_interp.errors import UserError
from nca_interp.signals import this_command

if TYPE_CHECKING:
    from nca_interp.config import Study
    from nca_interp.engine.phase import CellState, PhaseState
    from nca_interp.phase import Phase


def refuse_parts(**given: object) -> None:
    """UserError for options that speak of one study."""
    for option, value in given.items():
        if value is not None:
            raise UserError(f"--{option}: goes with a recipe of one study; a phase diagram chooses its runs itself")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "a phase diagram trains many small runs side by side; start it once, without a launcher of processes"
        )


def precision_of(study: Study) -> Literal["fp32", "bf16"]:
    """As every command resolves it."""
    from nca_interp.machine import resolve_precision

    return resolve_precision(study.precision, study.model.d_model)


def check(phase: Phase, folder: Path) -> None:
    """UserError where the phase cannot be trained, or not there."""
    from nca_interp.analysis.verdicts.plan import contrasts_of
    from nca_interp.engine.phase import check_budget
    from nca_interp.engine.phase_folder import may_claim
    from nca_interp.outputs import check_output

    check_output("--out", folder, "phase diagram", may_claim)
    for study in phase.studies:
        contrasts_of(study)
        check_folder(folder / study.name, study)
    check_budget(phase, precision_of)


def train(phase: Phase, folder: Path, workers: int | None, threads: int, engine: str = "local") -> int:
    """Train until every sign is settled or the budget is spent; tables and page are written anew after every round. Returns the
    exit code; leaves with 130 or 143 where it was stopped."""
    from nca_interp import machine
    from nca_interp.engine.local import default_workers
    from nca_interp.engine.phase import PhaseState
    from nca_interp.engine.phase_folder import claim

    workers = workers or default_workers()
    precision = precision_of(phase.studies[0])
    claim(folder, phase, machine.provenance(this_command(), precision, workers, threads))
    code = 0
    try:
        for study, plan in PhaseState(phase, folder, precision_of).first():
            code |= run_plan(folder / study.name, study, plan, workers, threads, engine)
        failed: set[str] = set()
        while chosen := (state := PhaseState(phase, folder, precision_of)).next(workers, failed):
            show(state)
            print(f"next: {', '.join(told(one) for one in chosen)}", file=sys.stderr)
            study, plan = state.round(chosen)
            bad = run_plan(folder / study.name, study, plan, workers, threads, engine)
            code |= bad
            failed |= {one.cell.name for one in chosen} if bad else set()
    except SystemExit:
        with suppress(OSError):  # what is trained is safe, and that it was stopped is what is to be said
            show(PhaseState(phase, folder, precision_of), quiet=True)
        raise
    show(state)
    print(f"report: {report(folder).resolve()}")
    return code


def show(state: PhaseState, quiet: bool = False) -> None:
    """Write tables and page, and (unless `quiet`) say how far it is."""
    from nca_interp.engine.phase_folder import write_tables

    cells = write_tables(state)
    report(state.folder)
    if not quiet:
        counts = ", ".join(f"{count} {name}" for name, count in cells.state.value_counts().items())
        share = state.spent / state.phase.budget
        print(
            f"phase: {len(cells)} cells: {counts}; {share:.0%} of the budget, {state.tokens:,} tokens", file=sys.stderr
        )


def told(state: CellState) -> str:
    """A cell that gets a seed, in words."""
    return f"{state.cell.name} seed {state.standing.n} ({state.standing.effect:+.3g} nats so far)"


def report(folder: Path) -> Path:
    """Write the page of a phase diagram from its tables."""
    from nca_interp.report.pages.phase import PhaseFolder

    return PhaseFolder(folder).build()


def print_phase(phase: Phase, folder: Path, workers: int | None, threads: int) -> None:
    """Print what a phase would do: studies, cells, costs, what its seeds can show. Writes nothing."""
    from nca_interp import machine
    from nca_interp.base import duration
    from nca_interp.engine.cost import UTILISATION, disk_cost, size
    from nca_interp.engine.local import default_workers
    from nca_interp.engine.phase import PhaseState, flops
    from nca_interp.engine.phase_folder import ends_at

    workers, state = workers or default_workers(), PhaseState(phase, folder, precision_of)
    print(f"phase       {phase.name}: {phase.title}\nfolder      {folder}")
    for study, plan in state.first():
        runs, model = plan.runs, study.model
        tokens = sum(run.config.steps * run.config.batch_size * model.n_ctx for run in runs)
        print(
            f"study       {study.name}: {model.n_layers} layers, d_model {model.d_model}, n_ctx {model.n_ctx}; the first {phase.first_seeds} "
            f"seeds are {len(runs)} runs, {tokens:,} tokens, {flops(plan):.3g} FLOPs"
        )
    print(f"{'cell':44} {'treated':30} {'control':16} {'n':>2} {'next seed':>10}")
    for one in state.cells:
        cell, cost = one.cell, f"{one.cost:.2g}"
        print(f"{cell.name:44} {cell.treated:30} {cell.control:16} {one.standing.n:2} {cost:>10}")
    every = sum(flops(plan) for plan in state.plans.values())
    least = sum(flops(plan) for _, plan in state.first())
    print(f"cells       {len(phase.cells)}; the runs that they share are trained once and counted once")
    print(
        f"FLOPs       {least:.3g} the first seeds, {every:.3g} all {phase.last_seed} seeds of every cell; budget {phase.budget:.3g}"
    )
    print(f"seeds       {ends_at(state.looks)}")
    widths = ", ".join(f"{n}: {half_width(state, n):.2g}" for n in range(state.looks.first, state.looks.last + 1))
    print(f"            half an interval, in standard deviations of a paired difference, by number of seeds: {widths}")
    disk = sum(disk_cost(plan, workers).peak for plan in state.plans.values())
    print(f"disk        at most {size(disk)}")
    rate = machine.matmul_flops(precision_of(phase.studies[0]), threads)
    seconds = min(phase.budget, every) / (rate * UTILISATION * workers)
    print(
        f"time        about {duration(seconds)} for the whole budget: {workers} worker(s) at {UTILISATION:.0%} of the {rate / 1e9:,.0f} GFLOP/s "
        "that a matrix product reaches here now (training only; networks narrower than 128 reach less)"
    )


def half_width(state: PhaseState, n: int) -> float:
    """Of the interval of n seeds, in standard deviations of a paired difference."""
    from scipy import stats

    from nca_interp.analysis.verdicts.sequential import level

    return float(stats.t.isf(level(state.looks) / 2, n - 1)) / math.sqrt(n)
