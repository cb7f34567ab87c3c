"""What counts as getting further, and how long it is waited for."""

from __future__ import annotations

import pytest

from nca_interp import discover
from nca_interp.engine import hang
from nca_interp.engine.graph import Job, MeasureJob
from nca_interp.engine.hang import Patience, Pulse, traces
from nca_interp.engine.plan import make_plan
from nca_interp.store import StudyDir


@pytest.fixture(scope="module")
def plan():
    return make_plan(discover.find("runs", "smoke").value(), "fp32")


def test_a_pulse_tells_computing_from_getting_further():
    pulse = Pulse(heard=0.0, further=0.0)
    pulse.look(10.0, 5.0, "nothing yet")
    assert (pulse.heard, pulse.further) == (10.0, 0.0)  # it computes
    pulse.look(20.0, 5.1, "nothing yet")
    assert (pulse.heard, pulse.further) == (10.0, 0.0)  # less than shows life
    pulse.look(30.0, 15.0, "a step")
    assert (pulse.heard, pulse.further, pulse.longest) == (30.0, 30.0, 30.0)
    pulse.look(35.0, 18.0, "another")
    assert (pulse.further, pulse.longest) == (35.0, 30.0)
    pulse.rest(100.0)
    assert (pulse.heard, pulse.further) == (135.0, 135.0)


def test_every_kind_of_job_leaves_traces_of_its_own(tmp_path, plan):
    """What one job writes is no sign of another's."""
    study = StudyDir(tmp_path)
    train = next(job for job in plan.jobs if job.id == "train:pt.nca.web.s0")
    other = next(job for job in plan.jobs if job.id == "train:pt.scratch.web.s0")
    measure = next(job for job in plan.jobs if job.id == "probes:pt.nca.web.s0")
    tokens = next(job for job in plan.jobs if job.kind == "tokens")
    jobs = (train, other, measure, tokens)

    def seen() -> list[tuple]:
        return [tuple(traces(tmp_path, job)) for job in jobs]

    def changed(write) -> list[bool]:
        before = seen()
        write()
        return [a != b for a, b in zip(before, seen(), strict=True)]

    run = study.run("pt.nca.web.s0")
    run.path.mkdir(parents=True)
    assert changed(lambda: run.append_metrics({"step": 1}))[:2] == [True, False]
    assert changed(lambda: run.append_metrics({"step": 2})) == [True, False, False, False]
    assert changed(lambda: run.checkpoint(2).mkdir(parents=True))[0]
    assert changed(lambda: (run.checkpoint(2) / "half").write_bytes(b"x"))[0]
    assert changed(lambda: run.set_status("running", 2))[0]
    (run.path / "probes").mkdir()
    assert changed(lambda: (run.path / "probes" / "step-00000002.csv").write_text("x"))[2]
    name = tokens.payload.path.removeprefix("tokens/")
    work = study.tokens / f".tmp-{name}-1"
    work.mkdir(parents=True)
    assert changed(lambda: (work / "train.bin").write_bytes(b"x")) == [False, False, False, True]
    assert changed(lambda: (study.tokens / ".tmp-other-1").mkdir()) == [False] * 4


def test_the_limits_are_generous_follow_the_estimate_and_can_be_set(tmp_path, plan, monkeypatch):
    def job(kind: str) -> Job:
        return next(one for one in plan.jobs if one.kind == kind)

    usual = Patience(tmp_path, 1, "cpu")
    assert usual.silent(job("train")) == hang.HUNG_SECONDS
    assert usual.silent(job("tokens")) == hang.TOKENS * hang.HUNG_SECONDS
    assert usual.stuck(job("train")) == hang.STUCK_SECONDS
    assert usual.stuck(job("tokens")) == hang.TOKENS * hang.STUCK_SECONDS
    large = job("train")
    large = large._replace(flops=1e15 * large.payload.config.steps)  # a step of 1e15 FLOPs: 28 hours at 1e10 FLOP/s
    assert usual.stuck(large) == pytest.approx(21 * 1e5)
    assert Patience(tmp_path, 8, "cpu").stuck(large) == pytest.approx(21 * 1e5 / 8)
    assert Patience(tmp_path, 1, "cuda").stuck(large) == pytest.approx(21 * 1e3)
    long = Job("m", "measure", MeasureJob("x", "r"), (), 0.0, cost=300.0, weights=4e6)
    assert usual.stuck(long) == 20 * 300 * 2
    assert usual.stuck(job("train"), longest=1000.0) == 20_000  # it has taken its time before
    monkeypatch.setenv(hang.STUCK, "60")
    asked = Patience(tmp_path, 1, "cpu")
    assert (asked.stuck(large), asked.stuck(job("tokens")), asked.stuck(long, 10.0)) == (60.0, 180.0, 200.0)
