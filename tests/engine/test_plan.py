"""What is measured of which runs."""

from __future__ import annotations

from collections import Counter

import pytest

from nca_interp import discover
from nca_interp.analysis.collection.collection import Collection, Settings, planned
from nca_interp.analysis.collection.find import find
from nca_interp.engine.demonstration import OF_HEADS, measured_plan
from nca_interp.engine.graph import RULES, MeasureJob
from nca_interp.engine.plan import analysis_plan, headline, make_plan, measure_jobs
from nca_interp.measurement import measurements
from nca_interp.store import AnalysisDir
from tests.analysis.models import tiny


def test_the_demo_measures_what_takes_longest_of_one_seed_and_heads_where_some_are_carried():
    plan = make_plan(discover.find("runs", "demo").value(), "fp32")
    runs = [f"{part}.s{seed}" for seed in range(3) for part in ("ppt.nca", "pt.nca.web", "pt.scratch.web")]
    assert sorted(run.id for run in headline(plan)) == sorted(runs)
    ids, shown = {job.id for job in plan.jobs}, {job.id for job in measured_plan(plan).jobs}
    first = ("ppt.nca.s0", "pt.nca.web.s0", "pt.scratch.web.s0", *(f"ppt.repeat.s{seed}" for seed in range(3)))
    assert shown - ids == {f"causes:{run}" for run in first}
    bare = ("scratch-plain", "scratch-published", "nca-reinit-attn", "nca-reinit-mlp")
    no_heads = {f"{what}:pt.{arm}.web.s{seed}" for what in OF_HEADS for arm in bare for seed in range(3)}
    assert ids - shown == {f"decode:ppt.nca.s{seed}" for seed in (1, 2)} | (no_heads & ids)
    assert len(no_heads & ids) == 3 * 12 - 6  # heads are followed from a parent only
    assert {need for job in measured_plan(plan).jobs for need in job.needs} <= shown


def test_always_measured_are_probes_of_each_run_nulls_of_each_source_and_inference_of_nca():
    plan = make_plan(discover.find("runs", "demo").value(), "fp32")
    jobs = [job.payload for job in plan.jobs if isinstance(job.payload, MeasureJob)]
    kinds = Counter(job.what for job in jobs)
    always = {m.name for m in measurements().values() if m.measure and "study" not in m.by_request and m.wanted is None}
    assert set(kinds) - {RULES} == always >= {"probes", "nulls", "inference", "decode"}
    before_ft = [run for run in plan.runs if run.stage != "ft"]
    assert kinds["probes"] == len(before_ft) > kinds["nulls"] == len({run.tokens for run in before_ft})
    assert kinds["inference"] == sum(run.stage == "ppt" and run.source["kind"] == "nca" for run in plan.runs)
    assert {str(job.options) for job in jobs if job.what == "nulls"} == {"{}"}
    runs = [planned(run) for run in plan.runs]
    with_causes = measure_jobs(runs, ["causes"], {"nulls": {"models": 20}})
    measured = {job.payload.subject for job in with_causes if job.payload.what == "causes"}
    assert measured == {run.id for run in before_ft if run.role in ("regime", "control")}
    assert [job.payload.options for job in with_causes if job.payload.what == "nulls"] == [{"models": 20}] * kinds[
        "nulls"
    ]


def test_the_work_on_one_run_is_cut_into_parts_and_put_together_by_the_last_job(tmp_path):
    from nca_interp.analysis.collection.collection import Collection, Entry, Listed
    from nca_interp.store import AnalysisDir

    pytest.importorskip("lm_eval", reason="needs the extra [eval] (lm-evaluation-harness)")
    from tests.analysis.reasoning.checkpoints import checkpoint

    place = str(checkpoint(tmp_path / "model"))
    collection = Collection.of(
        AnalysisDir(tmp_path / "out"), Listed(title="t", entries=(Entry(path=place, run="m"),)), {}
    )
    for parts, ids in ((1, ["reasoning:m"]), (2, ["reasoning:m:0", "reasoning:m:1", "reasoning:m"])):
        given = {"reasoning": {"tasks": "recall:1", "parts": parts}}
        jobs = measure_jobs(collection.runs, ["reasoning"], given, collection=collection, only=True)
        assert [job.id for job in jobs] == ids
        assert [job.payload.part for job in jobs] == [*((n, 2) for n in range(len(ids) - 1)), None]
        assert jobs[-1].needs == tuple(ids[:-1])


@pytest.mark.parametrize("fast", [False, True])
def test_what_measurements_cost_knows_the_model_and_the_first_look(tmp_path, fast):
    tiny("llama").save_pretrained(tmp_path / "small")
    tiny("llama", hidden_size=128).save_pretrained(tmp_path / "large")
    listed = find([str(tmp_path / "small"), str(tmp_path / "large")], Settings(fast=fast))
    collection = Collection.of(AnalysisDir(tmp_path / "out"), listed, {})
    jobs = {job.id: job.cost for job in analysis_plan(collection).jobs}
    for name in ("probes", "head-tokens", "retrieval", "player", "compare"):
        assert 0 < jobs[f"{name}:small"] < jobs[f"{name}:large"], name
    assert all((cost == 0) == fast for job, cost in jobs.items() if job.startswith("nulls:"))
    assert jobs["probes:large"] < 10 * jobs["head-tokens:large"]
