"""Run a plan through an engine (engines.py): who comes first, what waits for what, what is tried again.

Several such commands, on this machine or on others that see the same folder, share one study: every job is guarded by a file lock, and
what another process is doing is waited for. What a job ended with is known from files; the engine only says that it ended.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from nca_interp.engine.engines import Engine, Said
from nca_interp.engine.graph import Job, Plan
from nca_interp.engine.jobs import is_done
from nca_interp.engine.ready import Ready
from nca_interp.engine.worker import EXIT_BUSY, EXIT_STOPPED, EXIT_USAGE
from nca_interp.signals import collected
from nca_interp.store import AnalysisDir

RETRY_SECONDS = 2.0
"""Until a job that another process was doing is tried again."""
TICK_SECONDS = 0.1
TRIES = 2
"""Of a job whose process was lost."""
STOPPED = (EXIT_STOPPED, 128 + signal.SIGTERM, -signal.SIGTERM)
Event = Callable[[str, Job, str], None]
"""Called with (what, job, message); what is start, done, skipped, failed, stopped, blocked, waiting, retried, note, or share (of the
job that is done, a colon, and what is being done)."""


@dataclass
class Outcome:
    """How a plan ended: jobs by final state, messages of those that failed, the signal that stopped it (0: none)."""

    states: dict[str, str] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    stopped: int = 0
    usage_error: bool = False

    @property
    def failed(self) -> list[str]:
        """Ids of the jobs that failed themselves (not those blocked by them)."""
        return [job for job, state in self.states.items() if state == "failed"]


def run_plan(
    study: AnalysisDir, plan: Plan, *, engine: Engine,
    on_event: Event = lambda what, job, message: None, on_tick: Callable[[list[Job]], None] = lambda running: None,
    done: Callable[[AnalysisDir, Job], bool] = is_done,
) -> Outcome:  # fmt: skip
    """Have an engine do every job after those it needs, and close the engine; a failed job blocks only what needs it. A job whose process was
    killed or hung is tried once more, with half the micro-batch where it hung or memory was short.

    SIGINT or SIGTERM stops the running jobs after their present step (state saved) and starts no more.
    """
    run = _Run(Outcome(), Ready(plan.jobs, engine.needs), on_event)
    given = 0
    try:
        with collected(insisted=lambda: engine.cancel(now=True)) as received:
            while given or (len(run.ready) and not received):
                for said in engine.events(TICK_SECONDS if given or len(run.ready) else 0.0):
                    given -= said.what == "ended"
                    run.hear(said, stopping=bool(received))
                if received and not run.outcome.stopped:
                    run.outcome.stopped = received[0]
                    engine.cancel()
                while not received and run.next(study, engine, done):
                    given += 1
                on_tick(engine.running)
    finally:
        engine.close()
    return run.outcome


@dataclass
class _Run:
    outcome: Outcome
    ready: Ready
    on_event: Event
    waited: set[str] = field(default_factory=set)
    """Jobs that another process was doing."""
    tries: Counter[str] = field(default_factory=Counter)

    def next(self, study: AnalysisDir, engine: Engine, done: Callable[[AnalysisDir, Job], bool]) -> bool:
        """Give the next job for which there is room to the engine, if there is one; finished ones are skipped."""
        skipped = True
        while skipped and engine.room:
            skipped = False
            for job in self.ready.offers(engine.known):
                if done(study, job):
                    self.ready.take(job)
                    self._end(job, "done", "skipped", "")
                    skipped = True
                    break
                if engine.submit(job, self.ready.needs(job)):
                    self.ready.take(job)
                    return True
        return False

    def hear(self, said: Said, stopping: bool) -> None:
        """Take note of what an engine says of a job."""
        job, code = said.job, said.code
        if said.what != "ended":
            if said.what != "start" or job.id not in self.waited:
                self.on_event(said.what, job, said.text)
        elif code == EXIT_BUSY and not stopping:
            if job.id not in self.waited:
                self.on_event("waiting", job, said.text)
            self.waited.add(job.id)
            self.ready.rest(job, RETRY_SECONDS)
        elif not stopping and (said.lost or code in STOPPED) and self.tries[job.id] + 1 < TRIES:
            self._again(said)
        elif code == 0:
            self._end(job, "done", "done", "")
        elif code == EXIT_BUSY or (code in STOPPED and not said.lost):
            self._end(job, "stopped", "stopped", "")
        else:
            self.outcome.messages[job.id] = said.text
            self.outcome.usage_error |= code == EXIT_USAGE
            self._end(job, "failed", "failed", said.text)

    def _again(self, said: Said) -> None:
        job, needs = said.job, self.ready.needs(said.job)
        self.tries[job.id] += 1
        smaller = said.lost in ("hung", "memory")
        how = " with half the micro-batch" if smaller and job.kind == "train" else ""
        if smaller and job.kind == "measure":  # it has no micro-batch, so it gets more room
            needs = needs._replace(memory=2 * needs.memory)
        self.on_event(
            "retried", job, f"{said.text or 'its process was stopped by another'}; it is tried once more{how}"
        )
        self.ready.again(job, needs._replace(smaller=smaller))

    def _end(self, job: Job, state: str, what: str, message: str) -> None:
        self.outcome.states[job.id] = state
        self.on_event(what, job, message)
        if state == "done":
            self.ready.done(job)
        else:
            for other in self.ready.lost(job):
                self.outcome.states[other.id] = "blocked"
                self.on_event("blocked", other, "")
