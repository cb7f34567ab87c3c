"""The cost of an engine itself: a plan of jobs that do nothing, a tenth of which need another, with and without jobs that are killed.

python benchmarks/engine.py --jobs 2000 --killed 0 0.05 [--engine local|ray:HOST:PORT] [--kind measure|train]
python benchmarks/engine.py --engine ray --own-cluster      a Ray cluster of two cores is started for it, on loopback, and gone afterwards
python benchmarks/engine.py --linear 500 1000 2000 4000     processor time of the scheduler alone, with an engine that ends jobs at once
python benchmarks/engine.py --plan 100000                   how long a plan of so many jobs is made, stored as JSON and shown

A job of kind `measure` is done by a worker that goes on with the next; one of kind `train` gets a process of its own. A killed job sends
itself SIGKILL at its first try. Prints jobs a second, milliseconds of one worker a job (what an engine adds to each), and processor time
of this process, which schedules. The cluster of its own lives in namespaces (root, Linux): a network with nothing but loopback, a process
tree that ends with it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from nca_interp.engine.engines import Asked, Resources, Said, opened
from nca_interp.engine.graph import Job, MeasureJob, Plan
from nca_interp.engine.runner import run_plan
from nca_interp.store import AnalysisDir

LONGEST_SECONDS = 3600
"""That a cluster of its own may live."""
INSIDE = "BENCHMARK_ENGINE_INSIDE"
"""Environment: this process is the one inside namespaces."""


def nothing(study: Path, job: Job, probes: Path | None, say: Any, smaller: bool) -> None:
    """The body of a job: nothing, or death at its first try."""
    assert isinstance(job.payload, MeasureJob)
    if job.payload.what == "killed":
        mark = study / job.payload.subject
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def jobs_of(n: int, killed: float, kind: Any) -> list[Job]:
    """`n` jobs; every tenth needs the one before it, and the share `killed` of them, evenly spread, dies once."""
    every = round(1 / killed) if killed else n + 1
    found = []
    for i in range(n):
        what = "killed" if i % every == every - 1 else "nothing"
        needs = (f"job:{i - 1}",) if i % 10 == 9 else ()
        found.append(Job(f"job:{i}", kind, MeasureJob(what, f"r{i}"), needs, 0.0))
    return found


class _Open:
    """An engine that stays open after a plan: the start of processes is not what is measured."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def close(self) -> None:
        """Not yet."""


def run(engine: str, n: int, killed: float, kind: str, workers: int | None) -> None:
    """One plan through one engine, and a line on it."""
    jobs = jobs_of(n, killed, kind)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        asked = Asked(
            path,
            lambda device: {job.id: Resources() for job in jobs},
            workers,
            kinds=frozenset(),
            body=nothing,
        )
        running, retried = opened(engine, asked), 0
        at_once = running.workers

        def event(what: str, job: Job, message: str) -> None:
            nonlocal retried
            retried += what == "retried"

        warm = Plan(None, [one._replace(id=f"warm-{one.id}", needs=()) for one in jobs[: 2 * at_once]])
        run_plan(AnalysisDir(path), warm, engine=_Open(running), done=lambda study, job: False)
        begin, spent = time.perf_counter(), time.process_time()
        outcome = run_plan(
            AnalysisDir(path), Plan(None, jobs), engine=running, on_event=event, done=lambda study, job: False
        )
        seconds, spent = time.perf_counter() - begin, time.process_time() - spent
    assert set(outcome.states.values()) == {"done"}, outcome.messages
    print(
        f"{engine:24} {kind:8} {n:6} jobs, {killed:4.0%} killed: {n / seconds:8.1f} jobs/s, "
        f"{1000 * seconds * at_once / n:7.1f} ms of one of {at_once} worker(s) a job, {retried} tried again, {seconds:.1f} s, "
        f"scheduling {spent:.1f} s of processor time",
        flush=True,
    )


class _AtOnce:
    """An engine of two workers whose jobs have ended by the time that it is asked: what is left is the scheduler."""

    about, known, workers = "", frozenset[str](), 2

    def __init__(self) -> None:
        self.needs: dict[str, Resources] = {}
        self.running: list[Job] = []

    @property
    def room(self) -> bool:
        """As of two workers."""
        return len(self.running) < self.workers

    def submit(self, job: Job, resources: Resources) -> bool:
        """Take it."""
        self.running.append(job)
        return True

    def events(self, timeout: float) -> list[Said]:
        """All have ended."""
        ended, self.running = self.running, []
        return [Said("ended", job) for job in ended]

    def cancel(self, now: bool = False) -> None:
        """Nothing runs."""

    def close(self) -> None:
        """Nothing is open."""


def linear(sizes: list[int]) -> None:
    """Processor time of the scheduler for plans of several sizes, the least of three."""
    print("| jobs | scheduler, s of processor time | microseconds a job |\n|---|---|---|")
    for n in sizes:
        took = []
        for _ in range(3):
            jobs = jobs_of(n, 0.0, "measure")
            with tempfile.TemporaryDirectory() as folder:
                begin = time.process_time()
                outcome = run_plan(
                    AnalysisDir(Path(folder)), Plan(None, jobs), engine=_AtOnce(), done=lambda study, job: False
                )
                took.append(time.process_time() - begin)
            assert set(outcome.states.values()) == {"done"}
        print(f"| {n:,} | {min(took):.3f} | {1e6 * min(took) / n:.0f} |", flush=True)


def own_cluster() -> str:
    """Start this script again in namespaces of its own; there, the address of a Ray cluster of two cores, which ends with them."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tests.engine import scenes

    if os.environ.get(INSIDE) is None:
        os.environ[INSIDE] = "1"
        sys.exit(subprocess.run([*scenes.APART, sys.executable, *sys.argv]).returncode)
    scenes.alone()
    signal.alarm(LONGEST_SECONDS)  # and with this process all of the cluster ends
    return str(scenes.head(2).address)


def study_of(n: int) -> Any:
    """A study of about `n` jobs: arms of one source over many domains and seeds."""
    from nca_interp.config import Domain, ModelConfig, Regime, Seeds, StageConfig, Study
    from nca_interp.data.specs import NcaSpec, TextSpec

    arms, domains = 10, 10
    seeds = max(1, round(n / 5 / (arms * domains)))
    stage = StageConfig(steps=1000, batch_size=8, lr=1e-3)
    keeps = [
        (),
        ("attn",),
        ("mlp",),
        ("norm",),
        ("attn", "mlp"),
        ("attn", "norm"),
        ("mlp", "norm"),
        ("attn", "mlp", "norm"),
    ]
    regimes = [Regime(name="scratch", label="scratch")]
    regimes += [
        Regime(name=f"nca-{i}", label=str(i), source=NcaSpec(grid=8, n_states=2, band=None), keep=keeps[i % 8], lr_factor=1 + i / 10)
        for i in range(arms - 1)
    ]  # fmt: skip
    return Study(
        name="large", title="Many jobs", ppt=stage, pt=stage, ft=None, regimes=tuple(regimes),
        model=ModelConfig(n_layers=2, d_model=32, n_heads=2, d_mlp=64, n_ctx=128),
        domains=tuple(Domain(name=f"d{i}", label=f"d{i}", source=TextSpec(source="site:prose-a", max_bytes=10_000 + i)) for i in range(domains)),
        seeds=tuple(Seeds(init=i, order=i, rules=i) for i in range(seeds)),
    )  # fmt: skip


def plan(n: int) -> None:
    """A plan of about `n` jobs made, stored and shown."""
    from nca_interp.engine.cost import print_plan
    from nca_interp.engine.export import Commands, as_json
    from nca_interp.engine.needs import needs_of
    from nca_interp.engine.plan import make_plan
    from nca_interp.engine.ready import Ready

    study = study_of(n)
    begin = time.process_time()

    def lap(what: str) -> None:
        nonlocal begin
        now = time.process_time()
        print(f"{what:40} {now - begin:6.1f} s of processor time", flush=True)
        begin = now

    made = make_plan(study, "fp32")
    lap(f"{len(made.jobs)} jobs made")
    needs = needs_of(made, 1, "cpu")
    lap("what each needs")
    with tempfile.TemporaryDirectory() as folder:
        text = "\n".join(as_json(made, needs, Commands(["train"], ["analyze"], ["report"]), Path(folder)))
        (Path(folder) / "plan.json").write_text(text)
        lap(f"stored as {len(text) / 1e6:.0f} MB of JSON")
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown):
            print_plan(made, Path(folder), 1, 1)
        lap(f"shown in {len(shown.getvalue().splitlines())} lines")
    ready = Ready(made.jobs, needs)
    while len(ready):
        job = ready.offers()[0]
        ready.take(job)
        ready.done(job)
    lap("every job taken in its order")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", default="local")
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--killed", type=float, nargs="*", default=[0.0, 0.05])
    parser.add_argument("--kind", choices=("measure", "train"), default="measure")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--plan", type=int, help="Make a plan of so many jobs instead.")
    parser.add_argument("--linear", type=int, nargs="+", help="Cost of the scheduler alone for so many jobs instead.")
    parser.add_argument("--own-cluster", action="store_true", help="With --engine ray: start a cluster for it.")
    given = parser.parse_args()
    if given.plan:
        plan(given.plan)
    elif given.linear:
        linear(given.linear)
    else:
        if given.own_cluster:
            given.engine = f"ray:{own_cluster()}"
        for share in given.killed:
            run(given.engine, given.jobs, share, given.kind, given.workers)
