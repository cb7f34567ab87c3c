"""The state of a study's runs, read from their files: for `train` while it works, and for `watch` beside it.

Nothing is written and no clock is read: rates come from the runs' own metrics, and whether a run is alive from its lock,
which dies with its process.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from statistics import fmean, median
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nca_interp.base import UserError, duration
from nca_interp.config import STAGE_LABELS
from nca_interp.engine.graph import Job
from nca_interp.engine.stands import State, state_of
from nca_interp.store import StudyDir
from nca_interp.train.grafted import left_out
from nca_interp.train.run import RunConfig

RATE_ROWS = 20
"""Steps over which a run's rate is the median."""
STAGE_ORDER = {stage: index for index, stage in enumerate(STAGE_LABELS)}
STYLES = {
    "running": "bold",
    "done": "green",
    "stopped": "yellow",
    "failed": "red",
    "diverged": "red",
    "blocked": "red",
    "damaged": "red",
}


class RunRow(NamedTuple):
    """One run as it stands."""

    run: str
    stage: str
    regime: str
    domain: str | None
    seed: int
    state: State
    step: int
    steps: int
    loss: float | None
    """Training loss of the last step, nats a token."""
    val_loss: float | None
    """Last validation loss, nats a token."""
    tokens_per_second: float | None
    """Median of the last steps; of a running run only."""
    remaining_seconds: float | None
    """At that rate; of a running run only."""
    message: str
    """Why it is not running or done."""


class Board(NamedTuple):
    """All runs of a plan."""

    rows: list[RunRow]
    remaining_seconds: float | None
    """Until all that can still be trained is, at the FLOP rate of the runs that are running."""

    @property
    def finished(self) -> bool:
        """Whether no run is running or still to come."""
        return all(row.state in ("done", "left out", "failed", "diverged", "blocked", "damaged") for row in self.rows)

    def count(self, state: State) -> int:
        """Number of runs in a state."""
        return sum(row.state == state for row in self.rows)

    def running(self) -> list[RunRow]:
        """Runs that a process is training now."""
        return [row for row in self.rows if row.state == "running"]


class BoardReader:
    """Reads the board again and again; runs that are done are read once."""

    def __init__(self, study: StudyDir, jobs: Iterable[Job]) -> None:
        self.study = study
        self.jobs = [(job.payload, job.flops) for job in jobs if job.kind == "train"]
        self._done: dict[str, RunRow] = {}

    def read(self) -> Board:
        """The state of every run now."""
        rows: dict[str, RunRow] = {}
        left = rate = 0.0
        for config, flops in self.jobs:
            assert isinstance(config, RunConfig)
            row = self._done.get(config.id) or self._read(config, rows)
            rows[config.id] = row
            if row.state == "done":
                self._done[config.id] = row
            if row.state in ("running", "not begun", "stopped"):
                left += flops * (1 - row.step / row.steps)
            if row.tokens_per_second:
                rate += row.tokens_per_second * flops / (row.steps * config.config.batch_size * config.model.n_ctx)
        return Board(list(rows.values()), left / rate if rate else None)

    def _read(self, config: RunConfig, before: dict[str, RunRow]) -> RunRow:
        run, stage = self.study.run(config.id), config.config
        rows: list[dict[str, Any]] = []
        try:
            status = run.status()
            state, message = state_of(run, status)
            if state == "not begun" and (why := left_out(self.study, config)):
                state, message = "left out", why
            rows = run.last_metrics(stage.eval_every + 1)
            if state == "done":
                run.check_metrics(status)
        except UserError as error:
            state, message, status = "damaged", str(error), {"step": 0}
        if state == "not begun" and config.parent in before:
            parent = before[config.parent]
            if parent.state in ("failed", "diverged", "blocked", "damaged"):
                state, message = "blocked", f"{parent.run} {parent.state}"
        last = rows[-1] if rows else {}
        rates = [row["tokens_per_second"] for row in rows[-RATE_ROWS:] if row.get("tokens_per_second")]
        rate = median(rates) if rates and state == "running" else None
        step = max(int(status["step"]), last.get("step", 0) if state == "running" else 0)
        left = (stage.steps - step) * stage.batch_size * config.model.n_ctx
        return RunRow(
            run=config.id, stage=config.stage, regime=config.regime, domain=config.domain, seed=config.seed,
            state=state, step=step, steps=stage.steps, loss=last.get("loss"),
            val_loss=next((row["val_loss"] for row in reversed(rows) if row.get("val_loss") is not None), None),
            tokens_per_second=rate, remaining_seconds=left / rate if rate else None, message=message,
        )  # fmt: skip


def headline(board: Board) -> str:
    """One line on the whole: runs by state, tokens a second, time left."""
    parts = [f"{board.count('done')} of {len(board.rows)} runs done"]
    states: tuple[State, ...] = ("left out", "running", "stopped", "failed", "diverged", "blocked", "damaged")
    parts += [f"{board.count(state)} {state}" for state in states if board.count(state)]
    if rate := sum(row.tokens_per_second or 0 for row in board.rows):
        parts.append(f"{rate:,.0f} tokens/s")
    if board.remaining_seconds is not None:
        parts.append(f"about {duration(board.remaining_seconds)} left")
    return ", ".join(parts)


def describe(row: RunRow) -> str:
    """One run in a line of plain text."""
    parts = [f"{row.run} step {row.step:,}/{row.steps:,}"]
    if row.loss is not None:
        parts.append(f"loss {row.loss:.3f}")
    if row.tokens_per_second:
        parts.append(f"{row.tokens_per_second:,.0f} tokens/s")
    if row.remaining_seconds is not None:
        parts.append(f"{duration(row.remaining_seconds)} left")
    return " ".join(parts)


def render(board: Board) -> RenderableType:
    """The board for a terminal: the regime table, the runs that are running, those that need attention."""
    parts: list[RenderableType] = [_regime_table(board)]
    if running := board.running():
        parts.append(_running_table(running))
    for row in board.rows:
        if row.state in ("stopped", "failed", "diverged", "damaged"):
            first = row.message.splitlines()[0] if row.message else f"after step {row.step:,}"
            parts.append(Text(f"{row.run} {row.state}: {first}", style=STYLES[row.state]))
    return Group(*parts, Text(headline(board)))


def _regime_table(board: Board) -> Table:
    """Regimes down, stages across. A cell: runs done of all, then the mean final validation loss, or how far they are."""
    columns = dict.fromkeys((row.stage, row.domain) for row in sorted(board.rows, key=lambda r: STAGE_ORDER[r.stage]))
    cells: dict[tuple[str, Any], list[RunRow]] = defaultdict(list)
    for row in board.rows:
        cells[row.regime, (row.stage, row.domain)].append(row)
    table = Table("regime", title="runs done, mean final loss", title_justify="left")
    for stage, domain in columns:
        label = (
            STAGE_LABELS[stage] if domain is None else domain if stage == "pt" else f"{domain} {STAGE_LABELS[stage]}"
        )
        table.add_column(label, justify="right")
    for regime in dict.fromkeys(row.regime for row in board.rows):
        table.add_row(regime, *(_cell(cells[regime, column]) for column in columns))
    return table


def _cell(rows: list[RunRow]) -> Text:
    if not rows:
        return Text("")
    done = [row for row in rows if row.state == "done"]
    text = f"{len(done)}/{len(rows)}"
    losses = [row.val_loss for row in done if row.val_loss is not None]
    if len(done) == len(rows) and losses:
        text += f"  {fmean(losses):.3f}"
    elif share := sum(row.step / row.steps for row in rows) / len(rows):
        text += f"  {share:4.0%} "
    states = {row.state for row in rows}
    worst = next((s for s in ("damaged", "failed", "diverged", "blocked", "stopped", "running") if s in states), "")
    return Text(text, style=STYLES.get(worst, "green" if states == {"done"} else ""))


def _running_table(rows: list[RunRow]) -> Table:
    table = Table("running", "stage", box=None, padding=(0, 2, 0, 0))
    for name in ("step", "loss", "validation", "tokens/s", "left"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row.run,
            STAGE_LABELS[row.stage],
            f"{row.step:,}/{row.steps:,}",
            "" if row.loss is None else f"{row.loss:.3f}",
            "" if row.val_loss is None else f"{row.val_loss:.3f}",
            f"{row.tokens_per_second:,.0f}" if row.tokens_per_second else "",
            duration(row.remaining_seconds) if row.remaining_seconds is not None else "",
        )
    return table
