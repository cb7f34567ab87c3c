"""The embedded engine where things go wrong: jobs killed, hung, out of memory, too large for the room that is left."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import psutil
import pytest

from nca_interp.base import UserError
from nca_interp.engine import hang, local
from nca_interp.engine.engines import Asked, Resources
from nca_interp.engine.graph import Job, MeasureJob, Plan
from nca_interp.engine.journal import Journal, Journals
from nca_interp.engine.local import LocalEngine
from nca_interp.engine.memory import free_memory, oom_kills, total_memory
from nca_interp.engine.runner import run_plan
from nca_interp.store import AnalysisDir
from nca_interp.train.micro import halve, recorded


def body(study: Path, job: Job, probes, say, smaller: bool) -> None:
    """Leaves a line a try, then does what the job's name says."""
    what = job.payload.what
    with open(study / job.id, "a") as file:
        file.write(f"{os.getpid()} {smaller} {time.monotonic()}\n")
    first = len((study / job.id).read_text().splitlines()) == 1
    if what == "killed" and first:
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "always killed":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif what == "hung" and first:
        time.sleep(1000)
    elif what == "spins" and first:
        while True:
            pass
    elif what in ("steps", "says"):  # computes all the time, and gets further every 0.4 s
        for step in range(12):
            until = time.monotonic() + 0.4
            while time.monotonic() < until:
                pass
            if what == "says":
                say(f"step {step}", step / 12)
                continue
            rows = study / "runs" / job.payload.subject / what / "rows"
            rows.parent.mkdir(parents=True, exist_ok=True)
            with open(rows, "a") as file:
                file.write("row\n")
    elif what == "memory" and first:
        raise MemoryError
    elif what == "slow":
        time.sleep(0.3)
        say("half", 0.5)


def run(folder, jobs, needs=None, **options):
    said = []
    asked = Asked(folder, lambda device: needs or {}, kinds=frozenset(), body=body, **options)
    engine = LocalEngine(asked)
    with Journal.begun(folder) as journal:

        def event(what, job, message):
            journal.add(what, job.id, message)
            said.append((what, job.id, message))

        outcome = run_plan(
            AnalysisDir(folder), Plan(None, jobs), engine=engine, on_event=event, done=lambda study, job: False
        )
        rows = {row.job: row for row in Journals(folder).rows()}
    return outcome, said, rows


def job(name, what="", needs=(), kind="measure"):
    return Job(name, kind, MeasureJob(what or name, name), tuple(needs), 0.0)


def tries(folder, name):
    return [line.split() for line in (folder / name).read_text().splitlines()]


def test_what_is_lost_is_named_tried_once_more_and_blocks_only_what_needs_it(tmp_path, monkeypatch):
    monkeypatch.setenv(hang.HUNG, "4")
    jobs = [
        job("killed", kind="train"), job("memory", kind="train"), job("hung", kind="train"), job("after", needs=["hung"]),
        job("always", "always killed"), job("blocked", needs=["always"]), job("fine"),
    ]  # fmt: skip
    outcome, said, rows = run(tmp_path, jobs, workers=2)
    assert outcome.failed == ["always"]
    assert outcome.states["blocked"] == "blocked"
    assert {name for name, state in outcome.states.items() if state == "done"} == {
        "killed",
        "memory",
        "hung",
        "after",
        "fine",
    }
    retried = {name: message for what, name, message in said if what == "retried"}
    assert set(retried) == {"killed", "memory", "hung", "always"}
    assert "ended by SIGKILL" in retried["killed"]
    assert "neither computed nor said anything for 4 s" in retried["hung"]
    assert "half the micro-batch" in retried["hung"]
    assert "half the micro-batch" in retried["memory"]
    assert "half the micro-batch" not in retried["killed"]
    assert "SIGSEGV" in outcome.messages["always"]
    assert [smaller for _, smaller, _ in tries(tmp_path, "memory")] == ["False", "True"]
    assert [smaller for _, smaller, _ in tries(tmp_path, "killed")] == ["False", "False"]
    assert rows["always"].state == "failed"
    assert rows["fine"].state == "done"
    assert not any(psutil.pid_exists(int(pid)) for name in ("hung", "killed") for pid, *_ in tries(tmp_path, name))


def test_a_job_that_spins_is_named_and_tried_again_and_one_that_gets_further_is_left_alone(tmp_path, monkeypatch):
    """The slow ones take longer than a job may spin; were steps and words no signs, they would be ended too."""
    monkeypatch.setenv(hang.STUCK, "3")
    jobs = [job("spins", kind="train"), job("steps"), job("says", kind="train"), job("after", needs=["spins"])]
    outcome, said, rows = run(tmp_path, jobs, workers=3)
    assert set(outcome.states.values()) == {"done"}
    retried = {name: message for what, name, message in said if what == "retried"}
    assert set(retried) == {"spins"}
    assert "it computed for 3 s without getting further (no step, no file, no word) and was ended" in retried["spins"]
    assert "half the micro-batch" in retried["spins"]
    assert [smaller for _, smaller, _ in tries(tmp_path, "spins")] == ["False", "True"]
    assert {len(tries(tmp_path, name)) for name in ("steps", "says")} == {1}
    assert not psutil.pid_exists(int(tries(tmp_path, "spins")[0][0]))
    assert rows["spins"].state == "done"


def test_a_job_for_which_there_is_no_room_waits(tmp_path):
    names = [f"slow{i}" for i in range(4)]
    half = Resources(memory=0.6 * free_memory())
    outcome, said, _ = run(tmp_path, [job(name, "slow") for name in names], dict.fromkeys(names, half), workers=4)
    assert set(outcome.states.values()) == {"done"}
    begun = sorted(float(tries(tmp_path, name)[0][2]) for name in names)
    assert all(later - earlier >= 0.3 for earlier, later in zip(begun, begun[1:], strict=False))  # never two at a time
    assert ("share", "slow0", "0.5:half") in said


def test_workers_go_by_memory_and_gpus_by_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "gpu_bytes", lambda device: [100.0, 100.0])
    given = []
    monkeypatch.setattr(local.Crew, "give", lambda crew, one, smaller, gpu: given.append(gpu))
    needs = {"a": Resources(gpu_memory=30.0)}
    engine = LocalEngine(Asked(tmp_path, lambda device: needs if device == "cuda" else {}, workers=9))
    assert [engine.submit(job(f"j{i}"), Resources(gpu_memory=30.0)) for i in range(7)] == [True] * 6 + [False]
    assert given == [0, 1, 0, 1, 0, 1]
    assert engine.submit(job("on the processor"), Resources())
    with pytest.raises(UserError, match=r"a: needs about .* of a GPU, the largest here has"):
        LocalEngine(Asked(tmp_path, lambda device: {"a": Resources(gpu_memory=200.0)}))


def test_what_no_machine_holds_is_refused_before_it_starts(tmp_path):
    assert 0 < free_memory() <= total_memory()
    assert oom_kills() >= 0
    needs = {"huge": Resources(memory=2 * total_memory())}
    with pytest.raises(UserError, match=r"huge: needs about .* of memory, this machine has .*micro_batch"):
        LocalEngine(Asked(tmp_path, lambda device: needs))


def test_jobs_killed_at_random_from_outside_end_all_the_same(tmp_path):
    """Half of the workers of a plan are killed at moments of chance; each job ends done, at its first or its second try."""
    jobs = [job(f"slow{i}", "slow", kind="train") for i in range(8)]
    draw, struck = random.Random(1), set()
    asked = Asked(tmp_path, lambda device: {}, workers=2, kinds=frozenset(), body=body)

    def tick(running):
        for one in running:
            if one.id not in struck and (tmp_path / one.id).exists():
                struck.add(one.id)
                if draw.random() < 0.5:
                    os.kill(int(tries(tmp_path, one.id)[0][0]), signal.SIGKILL)

    outcome = run_plan(
        AnalysisDir(tmp_path), Plan(None, jobs), engine=LocalEngine(asked), on_tick=tick, done=lambda study, one: False
    )
    assert set(outcome.states.values()) == {"done"}
    assert {len(tries(tmp_path, one.id)) for one in jobs} == {1, 2}


def test_the_server_that_starts_workers_is_killed_and_nothing_is_lost(tmp_path):
    jobs = [job(f"slow{i}", "slow", kind="train") for i in range(4)] + [job("fine")]
    asked = Asked(tmp_path, lambda device: {}, workers=2, kinds=frozenset(), body=body)
    killed, retried = [], []

    def tick(running):
        if not killed and (tmp_path / "slow0").exists():
            for child in psutil.Process().children():
                if "forkserver" in " ".join(child.cmdline()):
                    killed.append(child.pid)
                    child.kill()

    outcome = run_plan(
        AnalysisDir(tmp_path), Plan(None, jobs), engine=LocalEngine(asked), on_tick=tick, done=lambda study, one: False,
        on_event=lambda what, one, message: retried.append(message) if what == "retried" else None,
    )  # fmt: skip
    assert set(outcome.states.values()) == {"done"}, outcome.messages
    assert len(killed) == 1
    assert retried
    assert all("from which workers are started is gone" in message for message in retried)


def test_a_journal_whose_process_is_gone_tells_what_it_left(tmp_path):
    with Journal.begun(tmp_path) as journal:
        journal.add("start", "a")
        journal.add("share", "a", "0.25:reading")
        journal.add("share", "a", "0.5:too soon to be told")
        journal.add("start", "b")
        journal.add("done", "b")
        found = {row.job: row for row in Journals(tmp_path).rows()}
        assert (found["a"].state, found["a"].share, found["a"].message) == ("running", 0.25, "reading")
    again = Journals(tmp_path)
    assert {row.job: row.state for row in again.rows()} == {"a": "lost", "b": "done"}
    (tmp_path / "jobs" / "elsewhere-7.jsonl").write_text('{"time": 1, "what": "done", "job": "a"}\nnot json\n{"torn')
    assert {row.job: row.state for row in again.rows()} == {"a": "done", "b": "done"}


@pytest.mark.parametrize(("now", "share", "half"), [(32, 32, 16), (4, 12, 2), (1, 8, 1), (5, 15, 1), (6, 12, 3)])
def test_half_a_micro_batch_divides_the_batch_and_is_remembered(tmp_path, now, share, half):
    record = tmp_path / "micro_batch.json"
    assert recorded(record, share) is None
    assert halve(record, now, share) == half == recorded(record, share)
    assert halve(record, now, share) == max(
        n for n in range(1, half + 1) if share % n == 0 and (n <= half // 2 or n == 1)
    )
    assert recorded(record, share * 7 + 1) in (None, 1)
