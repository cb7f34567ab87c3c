"""Comparison of a study's networks: planted similarities, and that what is kept is used until something behind it changes."""

from __future__ import annotations

import itertools
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from nca_interp.analysis.similarity import study as compare
from nca_interp.analysis.similarity.seeds import ALIKE, DIFFER, alike
from nca_interp.analysis.similarity.weights import CheckpointTensors, head_norms
from nca_interp.config import ModelConfig
from nca_interp.data.tokens import write_tokens
from nca_interp.model.checkpoint import save_model
from nca_interp.model.llama import build
from nca_interp.store import StudyDir
from tests.analysis.runs import opened, run_of
from tests.analysis.test_tables import MODEL, TEXT, _add_run, _study


def pairs(gap: float, seeds: int, spread: float = 0.01) -> pd.DataFrame:
    """CKA at the ends of two regimes: 0.8 for two seeds of one, `gap` less across regimes, a little noise on each pair."""
    rng, rows = np.random.default_rng(0), []
    for (a, s), (b, t) in itertools.combinations([(r, s) for s in range(seeds) for r in ("nca", "scratch")], 2):
        if s == t:
            continue
        kind = "seeds" if a == b else "across"
        for layer in range(3):
            value = 0.8 - (gap if kind == "across" and layer else 0) + spread * rng.normal()
            rows.append(("web", kind, a, s, b, t, layer, layer, value))
    columns = ["domain", "comparison", "regime_a", "seed_a", "regime_b", "seed_b", "layer_a", "layer_b", "value"]
    return pd.DataFrame(rows, columns=columns)


@pytest.mark.parametrize(("gap", "word"), [(0.2, DIFFER), (0.0, ALIKE)])
def test_regimes_differ_more_than_seeds_where_that_is_planted(gap, word):
    found = alike(pairs(gap, seeds=5))
    assert list(found.layer.fillna(-1)) == [0, 1, 2, -1]
    mean = found[found.layer.isna()].iloc[0]
    assert mean.verdict == word
    assert mean.low < -gap < mean.high
    assert mean.effect == pytest.approx(found[found.layer > 0].effect.mean())
    assert abs(found[found.layer == 0].effect.iloc[0]) < 0.02  # nothing planted in the embedding
    assert f"difference {mean.effect:+z.3f}" in mean.sentence


def test_interval_is_the_jackknife_over_seeds():
    rows = pairs(0.1, seeds=4, spread=0.05)
    layer = rows[rows.layer_a == 1]

    def effect(seeds):
        part = layer[layer.seed_a.isin(seeds) & layer.seed_b.isin(seeds)]
        own = [part[(part.comparison == "seeds") & (part.regime_a == r)].value.mean() for r in ("nca", "scratch")]
        return part[part.comparison == "across"].value.mean() - np.mean(own)

    left = np.array([effect(set(range(4)) - {out}) for out in range(4)])
    half = stats.t.ppf(0.975, 3) * np.sqrt(3 / 4 * ((left - left.mean()) ** 2).sum())
    row = alike(rows).query("layer == 1").iloc[0]
    assert (row.effect, row.low) == pytest.approx((effect(set(range(4))), effect(set(range(4))) - half))


def test_two_seeds_have_no_interval_and_one_has_no_row():
    assert alike(pairs(0.2, seeds=2)).verdict.str.startswith("no verdict").all()
    assert alike(pairs(0.2, seeds=1)).empty
    broken = pairs(0.2, seeds=3).iloc[3:]  # a pair is missing: nothing is made up
    assert alike(broken).empty


def test_norms_of_the_circuits_of_heads_equal_those_of_whole_matrices():
    config = ModelConfig(n_layers=2, d_model=16, n_heads=4, d_mlp=24, n_ctx=32)
    weights = build(config, 50, seed=0, stream="pt").state_dict()
    weights["model.layers.1.input_layernorm.weight"] = torch.rand(16) + 0.5
    found = head_norms(weights, 4).set_index(["layer", "head"])
    assert len(found) == 8
    gain = weights["model.layers.1.input_layernorm.weight"].diag()
    q, k, v, o = (weights[f"model.layers.1.self_attn.{p}_proj.weight"] for p in ("q", "k", "v", "o"))
    part = slice(8, 12)
    ov = gain @ v[part].T @ o[:, part].T
    qk = gain @ q[part].T @ k[part] @ gain
    assert tuple(found.loc[1, 2]) == pytest.approx((float(ov.norm()), float(qk.norm())), rel=1e-5)
    shared = dict(weights)  # two heads a key and value: equal to every head having its copy
    for layer, p in itertools.product((0, 1), ("k", "v")):
        name = f"model.layers.{layer}.self_attn.{p}_proj.weight"
        shared[name] = weights[name][:8]
        weights[name] = weights[name][:8].unflatten(0, (2, 4)).repeat_interleave(2, 0).flatten(0, 1)
    pd.testing.assert_frame_equal(head_norms(shared, 4), head_norms(weights, 4))


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> StudyDir:
    """Two seeds of scratch and of NCA with its pre-pre-training, random weights at steps 0 and 4; scratch's do not move."""
    path = tmp_path_factory.mktemp("compared")
    directory = StudyDir(path)
    directory.claim(_study().model_dump(mode="json"), {"command": "test"})
    vocab = write_tokens(path / "tokens/math", TEXT, n_train=16, n_val=8, seq_len=64, seed=0).vocab_size
    for seed in range(2):
        _add_run(directory, "ppt", "nca", seed, "tokens/math", None)
        _add_run(directory, "pt", "scratch", seed, "tokens/math", None)
        _add_run(directory, "pt", "nca", seed, "tokens/math", f"ppt.nca.s{seed}")
        for run, start, end in (
            (f"ppt.nca.s{seed}", 10, 20),
            (f"pt.scratch.math.s{seed}", 30, 30),
            (f"pt.nca.math.s{seed}", 20, 40),
        ):
            for step, draw in ((0, start), (4, end)):
                save_model(build(MODEL, vocab, draw + seed, "pt"), directory.run(run).checkpoint(step), {}, None)
    for run in opened(directory).runs:
        assert compare.compare_run(opened(directory), run) == []
    return directory


def test_tables_of_a_study_say_what_was_planted(study):
    tables = compare.comparison_tables(opened(study))
    assert set(compare.TABLES) - set(tables) == {"apart"}  # only of models from elsewhere
    for name in set(compare.TABLES) - {"apart"}:
        assert list(tables[name].columns) == compare.TABLES[name]
    similarity, weights = tables["similarity"], tables["weights"]
    assert similarity.value.between(-0.3, 1 + 1e-9).all()
    still = similarity[(similarity.comparison == "time") & (similarity.regime_a == "scratch")]
    assert still.value.to_numpy() == pytest.approx(1.0)
    assert similarity[(similarity.comparison == "time") & (similarity.regime_a == "nca")].value.max() < 0.9
    ends = similarity[similarity.step_a == 4]
    assert len(ends[ends.comparison == "regimes"]) == 2 * 9  # whole matrices, a pair of one seed each
    assert {c: len(ends[ends.comparison == c]) // 3 for c in ("seeds", "across")} == {"seeds": 2, "across": 2}
    assert set(ends[ends.comparison == "regimes"].regime_b) == {"scratch"}
    moved = weights[(weights["rank"] > 0) & (weights.step == 4)].groupby("regime").displacement
    assert moved.max()["scratch"] == 0
    assert moved.min()["nca"] > 1
    assert set(weights.stage) == {"ppt", "pt"}
    updates = tables["updates"]
    assert updates[updates.comparison == "regimes"].cosine.isna().all()  # scratch did not move
    # the synthetic stage went from draw 10 to 20, language from 20 to 40: what one added the other took away
    body = updates[(updates.comparison == "stages") & (updates.kind == "mlp")]
    assert body.cosine.to_numpy() == pytest.approx(-0.5, abs=0.15)
    assert set(tables["alike"].verdict) == {"no verdict (fewer than 3 seeds)"}
    assert len(tables["head_norms"]) == 6 * 2 * MODEL.n_layers * MODEL.n_heads


def test_what_is_kept_is_used_until_a_checkpoint_behind_it_changes(study, monkeypatch):
    before = {p: p.read_bytes() for p in study.path.glob("runs/*/compare/*")}
    assert len(before) == 2 * (2 * 2 + 4 * 5)
    times = {p: p.stat().st_mtime_ns for p in before}
    tables = compare.comparison_tables(opened(study))
    monkeypatch.setattr(compare, "open_streams", lambda *_: pytest.fail("read again"))
    monkeypatch.setattr(compare, "tensors", lambda *_: pytest.fail("read again"))
    for run in opened(study).runs:
        assert compare.compare_run(opened(study), run) == []
    monkeypatch.undo()
    assert {p: p.stat().st_mtime_ns for p in before} == times
    # other weights at the end of the last run: its own files are stale, and no other run's
    changed = study.run("pt.nca.math.s1").checkpoint(4) / "MANIFEST.json"
    text = changed.read_text()
    changed.write_text(text + " ")
    stale = compare.comparison_tables(opened(study))
    assert "pt.nca.math.s1" in set(tables["streams"].run)
    assert set(stale["streams"].run) == set(tables["streams"].run) - {"pt.nca.math.s1"}
    monkeypatch.setattr(compare, "code_hash", lambda files: "another engine")
    assert all(frame.empty for frame in compare.comparison_tables(opened(study)).values())
    changed.write_text(text)
    assert {p: p.read_bytes() for p in before} == before


def test_a_damaged_checkpoint_is_named_and_nothing_is_kept_of_it(study, tmp_path):
    folder = StudyDir(shutil.copytree(study.path, tmp_path / "study"))
    run = folder.run("ppt.nca.s0")
    shutil.rmtree(run.path / "compare")
    weights = run.checkpoint(4) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    (problem,) = compare.compare_run(opened(folder), run_of(folder, run.id))
    assert str(run.checkpoint(4)) in problem
    assert not (run.path / "compare").exists()


def test_tensors_are_read_one_at_a_time_and_are_those_of_the_file(study):
    from safetensors.torch import load_file

    directory = study.run("pt.nca.math.s0").checkpoint(4)
    lazy, whole = CheckpointTensors(directory), load_file(directory / "model.safetensors")
    assert set(lazy) == set(whole)
    assert all(torch.equal(lazy[name], whole[name]) for name in whole)
    assert lazy.get("no such tensor") is None
