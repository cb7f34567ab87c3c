"""The null of a study: the same numbers as `analyze(random=n)`, measured once for all runs that share it."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nca_interp.analysis.collection.collection import Collection, Settings
from nca_interp.analysis.collection.find import find
from nca_interp.analysis.probing import null_study
from nca_interp.analysis.probing.cache import read_header
from nca_interp.analysis.probing.engine import analyze, analyze_run
from nca_interp.analysis.probing.null import random_models
from nca_interp.analysis.probing.null_study import fdr_least, null_of_run, probe_tables, significant
from nca_interp.analysis.probing.table import read_table
from nca_interp.analysis.stimuli import size
from nca_interp.config import ModelConfig
from nca_interp.data.tokens import TokenFile, write_tokens
from nca_interp.engine.graph import MeasureJob
from nca_interp.engine.plan import measure_jobs
from nca_interp.machine import native_bf16
from nca_interp.model.checkpoint import save_model
from nca_interp.model.llama import build
from nca_interp.store import AnalysisDir, StudyDir
from tests.analysis.models import tiny
from tests.analysis.runs import opened, run_of
from tests.analysis.test_tables import MODEL, NCA, TEXT, _add_run, _study

PROBE = '''"""{name}: the highest attention {n} back, late in the rows, where uniform attention has little."""
from nca_interp import probe, repeated_tokens


@probe(stimulus=repeated_tokens(period=16), unit="attention mass", low=0.0, high=1.0, hit=0.05)
def {name}(attention):
    """Attention {n} back."""
    return attention.offset({n}).values[:, :, 24:].amax(-1)
'''
SHARED = ("pt.nca.math.s0", "pt.scratch.math.s0")


@pytest.fixture
def study(tmp_path) -> StudyDir:
    """A run on NCA and two on text, of sharp attention so that there are hits; step 0 and step 4 of one."""
    directory = StudyDir(tmp_path / "study")
    directory.claim(_study().model_dump(mode="json"), {"command": "test"})
    sharp = ModelConfig(**{**MODEL.model_dump(), "init_std": 0.6})
    for name, spec in {"nca": NCA, "math": TEXT}.items():
        write_tokens(directory.path / "tokens" / name, spec, n_train=16, n_val=8, seq_len=64, seed=0)
    for seed, run_id in enumerate(("ppt.nca.s0", *SHARED)):
        stage, regime = run_id.split(".")[:2]
        tokens = f"tokens/{'nca' if stage == 'ppt' else 'math'}"
        _add_run(directory, stage, regime, 0, tokens, None)
        vocab = TokenFile.open(directory.path / tokens).meta.vocab_size
        model = build(sharp, vocab, seed, stage)
        model.config.initializer_range = 0.2
        for step in (0, 4) if regime == "scratch" else (4,):
            provenance = {"run": run_id, "regime": regime, "stage": stage, "step": step, "tokens_dir": tokens}
            save_model(model, directory.run(run_id).checkpoint(step), provenance, None)
    return directory


@pytest.fixture
def probes(tmp_path):
    folder = tmp_path / "probes"
    folder.mkdir()
    for n in (1, 2):
        (folder / f"back_{n}.py").write_text(PROBE.format(name=f"back_{n}", n=n))
    return folder


def test_joined_are_the_nulls_and_hits_of_each_checkpoint_alone(study, probes):
    collection = opened(study)
    for run in collection.runs:
        assert analyze_run(run, probes_folder=probes).problems == []
        assert null_of_run(collection, run, 2, probes) == []
    assert len(list(study.nulls.glob("*.csv"))) == 2  # both runs on text share one
    found = probe_tables(opened(study))
    table = found["probes"]
    for run_id in ("ppt.nca.s0", *SHARED):
        alone = analyze(study.run(run_id).checkpoint(4), probes_folder=probes, random=2)
        ours = table[(table["run"] == run_id) & (table["step"] == 4)].reset_index(drop=True)
        columns = ["probe", "layer", "head", "value", "null_95", "hit"]
        pd.testing.assert_frame_equal(ours[columns], alone[columns], rtol=1e-6)
        assert ours["null_95"].notna().all()
        assert ours["hit"].notna().any()
    assert table["hit"].fillna(0).sum() > 0
    numbers = found["hits"].set_index(["run", "step", "probe"])
    heads = table[table["hit"].notna()].groupby(["run", "step", "probe"])
    assert (numbers["hits"] == heads["hit"].sum().reindex(numbers.index)).all()
    assert (numbers["best"] == heads["value"].max().reindex(numbers.index)).all()
    assert (numbers["top_mean"] == numbers["best"]).all()  # 2 % of four heads is one
    assert set(numbers["models"]) == {2}
    assert (numbers["hits_fdr"] == 0).all()  # eight drawn values: no four heads can be significant
    assert (numbers["fdr_least"] == 9).all()


CHANCE = '''"""any: attention to any earlier key, which uniform attention has, too."""
import numpy as np

from nca_interp import probe, repeated_tokens


@probe(stimulus=repeated_tokens(period=16), unit="attention mass", low=0.0, high=1.0, hit=0.05)
def wide(attention):
    """Attention to the nearest keys, nearly all that there are."""
    return attention.within(8).mean()
'''


def test_what_uniform_attention_has_makes_no_head_one_of_a_kind(study, tmp_path):
    """Above the threshold by chance alone: a head must have twice that, of a checkpoint alone and of a study."""
    folder = tmp_path / "wide"
    folder.mkdir()
    (folder / "wide.py").write_text(CHANCE)
    collection = opened(study)
    for run in collection.runs:
        assert analyze_run(run, probes=["wide"], probes_folder=folder).problems == []
        assert null_of_run(collection, run, 2, folder) == []
    found = probe_tables(opened(study))
    rows = found["probes"][found["probes"].probe == "wide"]
    assert (rows.chance > 0.3).all()  # far above the threshold of 0.05
    assert (rows.value > rows.null_95).any()  # heads that would be hits
    assert (rows.hit == (rows.value > np.maximum(rows.null_95, 2 * rows.chance))).all()
    assert not (rows.hit.astype(bool) & (rows.value < 0.6)).any()
    hits = found["hits"][found["hits"].probe == "wide"].set_index("run")
    assert np.allclose(hits.threshold, 2 * rows.groupby("run").chance.max().reindex(hits.index))
    alone = analyze(study.run(SHARED[0]).checkpoint(4), probes=["wide"], probes_folder=folder, random=2)
    ours = rows[(rows.run == SHARED[0]) & (rows.step == 4)]
    assert ours.hit.tolist() == alone.hit.tolist()


def test_a_changed_probe_is_drawn_again_alone(study, probes, monkeypatch):
    collection, run = opened(study), run_of(study, SHARED[0])
    assert null_of_run(collection, run, 2, probes) == []
    (path,) = study.nulls.glob("*.csv")
    before, seen = pd.read_csv(path), []
    measure = null_study._measure

    def counted(directory, measurer, models, settings, say):
        seen.append((sorted(measurer.hashes), models))
        return measure(directory, measurer, models, settings, say)

    monkeypatch.setattr(null_study, "_measure", counted)
    assert null_of_run(collection, run, 2, probes) == []
    assert null_of_run(collection, run_of(study, SHARED[1]), 2, probes) == []
    assert seen == []
    (probes / "back_2.py").write_text(PROBE.format(name="back_2", n=3))
    assert null_of_run(collection, run, 2, probes) == []
    assert seen.pop() == (["back_2"], 2)
    after = pd.read_csv(path)
    same = before["probe"] != "back_2"
    others = after["probe"] != "back_2"
    pd.testing.assert_frame_equal(after[others].reset_index(drop=True), before[same].reset_index(drop=True))
    assert (after[~others]["value"].to_numpy() != before[~same]["value"].to_numpy()).all()
    assert null_of_run(collection, run, 3, probes) == []
    assert seen.pop()[1] == 3
    assert null_of_run(collection, run, 2, probes) == []  # more than asked for is kept
    assert seen == []


def test_a_null_of_another_probe_file_is_not_joined(study, probes):
    collection, run = opened(study), run_of(study, SHARED[0])
    assert null_of_run(collection, run, 2, probes) == []
    (probes / "back_2.py").write_text(PROBE.format(name="back_2", n=3))
    assert analyze_run(run, probes_folder=probes).problems == []
    table = probe_tables(opened(study))["probes"]
    assert table[table["probe"] == "back_2"]["null_95"].isna().all()
    assert table[table["probe"] == "back_2"]["hit"].isna().all()
    assert table[table["probe"] == "back_1"]["null_95"].notna().all()


def test_a_probe_that_fails_on_random_models_is_named(study, probes):
    (probes / "back_2.py").write_text(PROBE.format(name="back_2", n=2).replace(".amax(-1)", ".amax(-1) / 0"))
    (problem,) = null_of_run(opened(study), run_of(study, SHARED[0]), 2, probes)
    assert "back_2.py" in problem


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_significant_is_benjamini_and_hochberg(values, null):
    p = [(1 + sum(n >= v for n in null)) / (1 + len(null)) for v in values]
    ordered = sorted(p)
    passing = [q for k, q in enumerate(ordered, 1) if q <= 0.05 * k / len(p) + 1e-12]
    limit = max(passing, default=-1.0)
    assert significant(np.array(values), np.sort(null)).tolist() == [q <= limit for q in p]


@given(st.integers(1, 300), st.integers(1, 2000))
def test_fewer_heads_than_fdr_least_are_never_significant_and_as_many_can_be(heads, drawn):
    least, null = fdr_least(heads, drawn), np.zeros(drawn)
    for above in {min(least, heads), min(least - 1, heads)}:
        values = np.where(np.arange(heads) < above, 1.0, -1.0)
        expected = above if above >= least else 0
        assert significant(values, null).sum() == expected


def test_a_null_is_a_job_once_for_each_token_source(study):
    runs = list(opened(study).runs)
    jobs = [job.payload for job in measure_jobs(runs)]
    assert [job for job in jobs if job.what == "nulls"] == [
        MeasureJob("nulls", "ppt.nca.s0"), MeasureJob("nulls", SHARED[0])
    ]  # fmt: skip
    assert not any(job.what == "causes" for job in jobs)
    asked = measure_jobs(runs, ["causes"], only=True, to_train=True)
    assert [job.id for job in asked] == [f"causes:{run.id}" for run in runs]
    assert [job.needs for job in asked] == [(f"train:{run.id}",) for run in runs]
    arm, end = replace(runs[1], id="arm", role="transfer"), replace(runs[1], stage="ft")
    assert measure_jobs([arm, end], ["causes"], only=True) == []


def test_random_models_of_a_large_shape_are_shown_less(tmp_path, probes, monkeypatch):
    tiny("llama").save_pretrained(tmp_path / "model")
    collection = Collection.of(AnalysisDir(tmp_path / "out"), find([str(tmp_path / "model")], Settings()), {})
    (run,) = collection.runs
    shown, path = [], collection.dir.null(null_study.null_key(run, collection.settings))
    for large in (1e12, 0.0):
        monkeypatch.setattr(size, "LARGE", large)
        monkeypatch.setattr(null_study, "SHOWN_RANDOM", 5 * 32)  # rows of 32 tokens
        assert null_of_run(collection, run, 2, probes, lambda what, share: shown.append(share)) == []
        header, rows = read_header(path), read_table(path)
        precision = "bfloat16" if native_bf16() else "float32"
        assert {k: header.get(k) for k in ("shown", "dtype")} == (
            {"shown": None, "dtype": None} if large else {"shown": 160, "dtype": precision}
        )
        assert set(rows[rows.probe == "back_1"].n) == ({16} if large else {5})
    assert 1.0 in shown
    assert all(0 < share <= 1 for share in shown)


def test_one_random_model_is_held_at_a_time(monkeypatch):
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    drawn = random_models(AutoConfig.for_model("llama", vocab_size=50, **shape), 2, torch.float32, "cpu")
    first = weakref.ref(next(drawn))
    held, draw = [], AutoModelForCausalLM.from_config

    def spy(*args, **options):
        gc.collect()
        held.append(first() is not None)
        return draw(*args, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_config", spy)
    next(drawn)
    assert held == [False]
