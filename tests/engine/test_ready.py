"""Which job comes next: needs first, long ones first, nothing twice, linear in their number; and a plan cut into shares."""

from __future__ import annotations

import cProfile
import random
import time

import pytest

from nca_interp import discover
from nca_interp.base import UserError
from nca_interp.engine.engines import Resources, names, parse
from nca_interp.engine.graph import Job, MeasureJob, Plan
from nca_interp.engine.plan import make_plan
from nca_interp.engine.ready import Ready
from nca_interp.engine.shares import costs, leaves, only, parse_share, share


def job(name, kind="measure", needs=(), flops=0.0, run=""):
    return Job(name, kind, MeasureJob("x", run or name), tuple(needs), flops)


def drained(ready, known=()):
    order = []
    while len(ready):
        offered = ready.offers(known)
        if not offered:
            break
        ready.take(offered[0])
        ready.done(offered[0])
        order.append(offered[0].id)
    return order


def test_tokens_then_training_long_ones_first_then_measurements():
    jobs = [job("m"), job("short", "train", flops=1.0), job("t", "tokens"), job("long", "train", flops=2.0)]
    assert drained(Ready(jobs, {})) == ["t", "long", "short", "m"]


def test_of_measurements_those_of_a_known_run_come_first():
    jobs = [job("a", run="x"), job("b", run="y"), job("c", run="x")]
    assert drained(Ready(jobs, {}), known={"y"}) == ["b", "a", "c"]


def test_any_graph_is_done_in_an_order_of_its_needs():
    draw = random.Random(0)
    jobs = [job(f"j{i}", needs={f"j{draw.randrange(i)}" for _ in range(draw.randrange(3)) if i}) for i in range(300)]
    order = drained(Ready(jobs, {}))
    place = {name: n for n, name in enumerate(order)}
    assert sorted(order) == sorted(one.id for one in jobs)
    assert all(place[need] < place[one.id] for one in jobs for need in one.needs)


def test_a_lost_job_gives_up_whatever_waits_for_it_and_nothing_else():
    jobs = [job("a"), job("b", needs=["a"]), job("c", needs=["b"]), job("d")]
    ready = Ready(jobs, {})
    ready.take(jobs[0])
    assert {one.id for one in ready.lost(jobs[0])} == {"b", "c"}
    assert drained(ready) == ["d"]


def test_each_need_offers_one_job_and_one_that_rests_comes_back_last():
    jobs = [job("small"), job("large"), job("other")]
    ready = Ready(jobs, {"large": Resources(memory=9.0)})
    assert [one.id for one in ready.offers()] == ["small", "large"]
    ready.take(jobs[0])
    ready.rest(jobs[0], 0.05)
    assert "small" not in [one.id for one in ready.offers()]
    time.sleep(0.06)
    assert drained(ready) == ["large", "other", "small"]
    ready = Ready(jobs, {})
    ready.take(jobs[0])
    ready.again(jobs[0], Resources(smaller=True))
    assert ready.needs(jobs[0]).smaller
    assert sorted(drained(ready)) == ["large", "other", "small"]


def test_the_cost_grows_linearly():
    def calls(n):
        jobs = [job(f"j{i}", needs=[f"j{i - 1}"] if i % 10 == 9 else []) for i in range(n)]
        with cProfile.Profile() as profile:
            assert len(drained(Ready(jobs, {}))) == n
        return sum(entry.callcount for entry in profile.getstats())

    assert calls(5000) < 15 * calls(500)  # ten times the jobs, and a logarithm; quadratic would be a hundred


@pytest.fixture(scope="module")
def smoke():
    return make_plan(discover.find("runs", "smoke").value(), "fp32", analyze=False)


@pytest.mark.parametrize("of", [1, 2, 5, 100])
def test_shares_hold_every_run_and_whatever_each_needs(smoke, of):
    shares = [share(smoke, which, of) for which in range(of)]
    assert {one.id for part in shares for one in part.jobs} == {one.id for one in smoke.jobs}
    for part in shares:
        held = [one.id for one in part.jobs]
        assert all(need in held[: held.index(one.id)] for one in part.jobs for need in one.needs)
    ends = [
        one.id for one in smoke.jobs if one.kind == "train" and not any(one.id in other.needs for other in smoke.jobs)
    ]
    assert sum(one.id in ends for part in shares for one in part.jobs) == len(ends) == leaves(smoke)
    assert costs(smoke, of) == [sum(one.flops for one in part.jobs) for part in shares]
    if of == 2:
        assert max(costs(smoke, of)) < 1.3 * min(costs(smoke, of))


def test_one_job_alone_and_what_is_not_there(smoke):
    found = only(smoke, "train:pt.nca.web.s0")
    assert [(one.id, one.needs) for one in found.jobs] == [("train:pt.nca.web.s0", ())]
    for wrong in ("3/3", "1", "a/b", "-1/2"):
        with pytest.raises(UserError, match="legal: I/N"):
            parse_share(wrong)
    with pytest.raises(UserError, match="did you mean"):
        only(smoke, "train:pt.nca.web.s9")
    assert Plan(None, []).jobs == []


def test_engines_are_found_by_their_file():
    assert names() == ["local", "ray"]
    assert parse("local") == ("local", "")
    with pytest.raises(UserError, match="no such engine"):
        parse("rya")
    with pytest.raises(UserError, match="local has no address"):
        parse("local:8")
