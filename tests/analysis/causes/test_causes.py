"""Causes: ablation against TransformerLens hooks, planted heads, and the truths each measure must respect."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nca_interp.analysis.attention.kernel import register
from nca_interp.analysis.causes import causes, effects
from nca_interp.analysis.causes.ablation import Site, ablate, ablate_sets, mean_outputs
from nca_interp.analysis.causes.composition import (
    Weights,
    composition_scores,
    eigenvalue_scores,
    read_weights,
)
from nca_interp.analysis.causes.effects import Scored, _cells, nca_task, repeated_task
from nca_interp.analysis.causes.lens import logit_lens
from nca_interp.analysis.causes.patching import METRIC, edge, patch
from nca_interp.analysis.causes.random_sets import random_sets
from nca_interp.analysis.causes.resume import Trunk
from nca_interp.analysis.causes.rows import effect_rows
from nca_interp.analysis.causes.set_rows import held_against, set_rows, top_sets
from nca_interp.analysis.causes.shared_heads import cross_load
from nca_interp.analysis.causes.transformer_lens import to_transformer_lens
from nca_interp.analysis.probing.measure import open_scored
from nca_interp.analysis.stimuli.base import NotApplicable, Subject
from nca_interp.base import UserError
from nca_interp.data.specs import NcaSpec
from tests.analysis.models import planted_gpt2, tiny

SUBJECT = Subject("tiny", 97, 96, prefix=(1,))
LOSS, GAIN = "repeated_token_loss", "repeated_token_gain"


def opened(family: str):
    model = tiny(family)
    model.set_attn_implementation(register())
    return model


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    directory = planted_gpt2(tmp_path_factory.mktemp("planted"))
    model = open_scored(directory)
    task = repeated_task(Subject("planted", 24, 40, frozenset({23}), prefix=(23,)))
    return Trunk(model), task


@pytest.mark.parametrize("how", ["mean", "zero", "resample"])
@pytest.mark.parametrize("family", ["llama-gqa", "gpt2"])
def test_equals_hooks_on_z_through_transformer_lens(family, how):
    model = opened(family)
    task = repeated_task(SUBJECT)
    trunk = Trunk(model)
    found, means = ablate(trunk, task, how), mean_outputs(trunk, task)
    bridge = to_transformer_lens(deepcopy(model), "tiny")
    inputs, targets = (torch.from_numpy(t) for t in (task.batch.inputs, task.batch.targets))
    for layer in range(2):
        for head in range(4):

            def hook(z, hook, layer=layer, head=head):
                z = z.clone()
                mean = means[layer][:, head]
                z[:, :, head] = {"mean": mean, "zero": 0.0, "resample": z[:, :, head].roll(1, 0)}[how]
                return z

            with torch.inference_mode():
                logits = bridge.run_with_hooks(inputs, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", hook)])
            nll = F.cross_entropy(logits[:, : targets.shape[1]].mT, targets, reduction="none").double()
            expected = task.metrics[LOSS].values(Scored(nll, targets), task.batch)
            got = found.after[Site("head", layer, head)][LOSS]
            assert torch.allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("family", ["neox", "qwen3", "olmo2", "gemma2", "mistral"])
def test_resuming_equals_whole_passes_in_other_families(family):
    trunk, task = Trunk(opened(family)), repeated_task(SUBJECT)
    found = ablate(trunk, task)
    heads = [site for site in found.after if site.kind == "head"]
    sets = ablate_sets(trunk, task, [frozenset({(s.layer, s.head)}) for s in heads])
    for site in heads:
        assert torch.allclose(found.change(site, LOSS), sets[frozenset({(site.layer, site.head)})][LOSS], atol=1e-5)


def test_a_layer_that_does_not_continue_as_the_model_did_is_refused():
    model = opened("llama")
    layer = model.model.layers[1]
    own = layer.forward
    layer.forward = lambda hidden, *a, **k: own(hidden, *a, **k) + hidden.flip(-1).cumsum(1)
    trunk = Trunk(model)
    passage = trunk.passage(torch.arange(20)[None])
    layer.forward = own
    with pytest.raises(NotApplicable, match="cannot be resumed"):
        trunk.heads(passage, 1)


def test_a_model_whose_layers_do_not_all_attend_is_refused(tmp_path):
    from transformers import Lfm2Config, Lfm2ForCausalLM

    config = Lfm2Config(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, layer_types=["conv", "full_attention"], max_position_embeddings=96,
    )  # fmt: skip
    Lfm2ForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"layer 0 \(Lfm2DecoderLayer\) has no part that is its attention"):
        causes.causes(tmp_path)


def test_a_model_that_takes_no_stimulus_is_refused(tmp_path):
    tiny("llama", max_position_embeddings=8).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="nothing to measure effects on: repeated_tokens: a context of 8"):
        causes.causes(tmp_path)


def test_planted_heads_matter_and_idle_ones_do_not(planted):
    trunk, task = planted
    found = ablate(trunk, task)
    gain = float(found.full[GAIN].mean())
    assert gain > 2
    for head in ((0, 0), (1, 0)):  # previous token, induction
        assert float(found.change(Site("head", *head), GAIN).mean()) < -gain / 3
        assert float(found.change(Site("head", *head), LOSS).mean()) > 2
    assert found.change(Site("head", 0, 1), LOSS).abs().max() < 1e-6
    assert float(found.change(Site("head", 1, 1), LOSS).mean()) < -0.1  # the anti-copier harms
    assert found.change(Site("mlp", 0), LOSS).abs().max() < 1e-6
    assert torch.allclose(found.after[Site("attn", 1)][LOSS], found.after[Site("layer", 1)][LOSS])
    rows = effect_rows(task, found, "mean")
    best = next(r for r in rows if r["metric"] == LOSS and r["site"] == "head" and r["rank"] == 1)
    assert (best["layer"], best["head"]) == (0, 0)
    assert sorted(r["rank"] for r in rows if r["metric"] == GAIN and r["site"] == "head") == [1, 2, 3, 4]
    assert {(r["metric"], r["worse"]) for r in rows} == {(LOSS, 1), (GAIN, -1)}


def test_without_induction_nothing_is_gained_from_the_repeat(planted):
    trunk, task = planted
    found = ablate(trunk, task, "zero")
    after = found.full[GAIN] + found.change(Site("attn", 1), GAIN)
    assert after.abs().max() < 1e-5


def test_ablating_nothing_changes_nothing(planted):
    trunk, task = planted
    assert ablate_sets(trunk, task, [frozenset()])[frozenset()][LOSS].abs().max() == 0


def test_the_mean_of_a_constant_head_is_its_output():
    model = opened("gpt2")
    with torch.no_grad():  # head 2 of layer 0: values do not depend on the input
        model.transformer.h[0].attn.c_attn.weight[:, 64 + 16 : 64 + 24] = 0
        model.transformer.h[0].attn.c_attn.bias[64 + 16 : 64 + 24] = 3.0
    trunk, task = Trunk(model), repeated_task(SUBJECT)
    site = Site("head", 0, 2)
    assert ablate(trunk, task).change(site, LOSS).abs().max() < 1e-5
    assert ablate(trunk, task, "zero").change(site, LOSS).abs().max() > 1e-4


def test_slices_do_not_change_effects(planted, monkeypatch):
    trunk, task = planted
    whole = ablate(trunk, task)
    monkeypatch.setattr(effects, "SLICE_TOKENS", 3 * task.batch.length)
    sizes = [len(part.batch.inputs) for part in task.slices()]
    assert len(sizes) > 2
    assert min(sizes) >= 2
    assert sum(sizes) == len(task.batch.inputs)
    parts = ablate(trunk, task)
    for site in whole.after:
        assert torch.allclose(whole.after[site][LOSS], parts.after[site][LOSS], atol=1e-5)


def test_unaligned_means_are_over_positions_too(planted):
    trunk, task = planted
    plain = replace(task, batch=replace(task.batch, period=None))
    per_position, one = mean_outputs(trunk, task), mean_outputs(trunk, plain)
    assert [m.shape[0] for m in one] == [1, 1]
    assert torch.allclose(per_position[0].mean(0, keepdim=True), one[0], atol=1e-6)


def test_unknown_replacement_is_named(planted):
    with pytest.raises(UserError, match="how: 'average'; legal: mean, zero, resample"):
        ablate(*planted, how="average")


@pytest.mark.parametrize("family", ["llama", "gpt2", "neox"])
def test_logit_lens_of_the_last_layer_is_the_model(family):
    model = opened(family)
    task = repeated_task(SUBJECT)
    lens = logit_lens(Trunk(model), task)
    inputs, targets = (torch.from_numpy(t) for t in (task.batch.inputs, task.batch.targets))
    with torch.inference_mode():
        logits = model(inputs).logits[:, : targets.shape[1]]
        nll = F.cross_entropy(logits.mT, targets, reduction="none")[:, task.counts]
    assert torch.allclose(lens.nll[-1], nll.double().mean(1), atol=1e-5)
    assert lens.kl[-1].abs().max() < 1e-6
    assert (lens.agreement[-1] == 1).all()
    assert lens.nll.shape == (3, len(inputs))
    assert (lens.kl >= -1e-6).all()
    assert (lens.kl[0] > 1e-5).all()
    assert torch.allclose(lens.entropy[-1], torch.distributions.Categorical(logits=logits[:, task.counts]).entropy().double().mean(1), atol=1e-5)  # fmt: skip


def test_patching_recovers_through_the_head_that_copies(planted):
    trunk, task = planted
    found = patch(trunk, task)
    assert found.denominator > 2
    assert found.recovery(Site("head", 0, 1)) == pytest.approx(0, abs=1e-5)
    assert found.recovery(Site("head", 1, 0)) > 0.9
    assert found.recovery(Site("attn", 1)) == pytest.approx(1, abs=1e-4)  # nothing else reads the first block
    assert found.recovery(Site("layer", 0)) == pytest.approx(0, abs=1e-5)  # the second block says the same words
    assert torch.allclose(found.clean, ablate(trunk, task).full[METRIC])


def test_the_edge_from_previous_token_to_induction_is_confirmed(planted):
    trunk, task = planted
    found = edge(trunk, task, (0, 0), (1, 0))
    assert float(found.change.mean()) > 2
    alone = ablate(trunk, task).change(Site("head", 1, 0), LOSS)
    assert torch.allclose(found.later, alone, atol=1e-5)
    assert edge(trunk, task, (0, 1), (1, 0)).change.abs().max() < 1e-6
    with pytest.raises(ValueError, match="earlier layer"):
        edge(trunk, task, (1, 0), (1, 1))


def weights_of(w_q, w_k, w_v, w_o, rotations=None) -> Weights:
    """One layer of one head, tokens the basis of the residual stream."""
    d_model = len(w_q)
    one = torch.eye(d_model, dtype=torch.float64)
    four = [w.double()[None, None] for w in (w_q, w_k, w_v, w_o)]
    return Weights(one, one, *four, torch.eye(w_q.shape[1])[None, None].double() if rotations is None else rotations)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_eigenvalue_scores_of_a_perfect_copier_and_its_opposite(sign):
    down = torch.linalg.qr(torch.randn(12, 4, generator=torch.Generator().manual_seed(0))).Q
    frame = eigenvalue_scores(weights_of(down, sign * down, down, sign * down.T)).set_index("probe")
    assert frame.value["ov_copying"] == pytest.approx(sign)
    assert frame.value["qk_matching"] == pytest.approx(sign)
    assert abs(frame.chance["ov_copying"]) < 0.3


def test_eigenvalue_scores_equal_those_of_the_whole_circuits():
    weights = read_weights(tiny("llama-gqa"))
    frame = eigenvalue_scores(weights)
    at_zero = frame[frame["at"] == "offset 0"].set_index(["probe", "layer", "head"]).value
    for layer, head in ((0, 1), (1, 3)):
        q, k, v, o = (w[layer, head] for w in (weights.w_q, weights.w_k, weights.w_v, weights.w_o))
        for name, circuit in (
            ("ov_copying", weights.w_e @ v @ o @ weights.w_u),
            ("qk_matching", weights.w_e @ q @ k.T @ weights.w_e.T),
        ):
            values = torch.linalg.eigvals(circuit)
            expected = float(values.real.sum() / values.abs().sum())
            assert at_zero[name, layer, head] == pytest.approx(expected, abs=1e-6)


def test_planted_copying_signs_and_key_composition(planted):
    weights = read_weights(deepcopy(planted[0].model))
    scores = eigenvalue_scores(weights).query("probe == 'ov_copying'").set_index(["layer", "head"]).value
    assert scores[1, 0] > 0.99
    assert scores[1, 1] < -0.99
    pairs = composition_scores(weights).set_index(["probe", "from_head", "head"])
    z = (pairs.value - pairs.chance) / pairs.sd
    assert z["k_composition", 0, 0] > 10
    assert z["q_composition", 0, 0] < 2
    assert pairs.value["k_composition", 1, 0] == pytest.approx(0, abs=1e-9)  # head 0.1 writes nothing


def test_composition_equals_dense_matrices_and_chance_is_that_of_random_directions():
    weights = read_weights(tiny("llama-gqa"))
    frame = composition_scores(weights)
    frame = frame[frame["at"] != f"mean of {weights.rotations.shape[1]} offsets"]
    found = frame.set_index(["probe", "from_head", "head"])
    ov = weights.w_v[0, 1] @ weights.w_o[0, 1]
    qk = weights.w_q[1, 2] @ weights.w_k[1, 2].T
    later = weights.w_v[1, 2] @ weights.w_o[1, 2]
    for name, into in (("q_composition", qk), ("k_composition", qk.T), ("v_composition", later)):
        expected = (ov @ into).norm() / (ov.norm() * into.norm())
        assert found.value[name, 1, 2] == pytest.approx(float(expected), abs=1e-9)
        assert found.chance[name, 1, 2] == pytest.approx(32**-0.5, rel=0.1)
    excess = (frame.value - frame.chance) / frame.sd
    assert excess.abs().mean() < 3  # a random model composes at chance


def test_top_heads_against_random_sets(planted):
    trunk, task = planted
    scores = {"induction": {(0, 0): 0.0, (0, 1): 0.1, (1, 0): 0.9, (1, 1): 0.2}}
    tops = top_sets(trunk, scores, None)
    drawn = {top: random_sets(top, trunk.n_heads, 50) for top in tops.values()}
    measured = set_rows(trunk, task, [*drawn, *(s for found in drawn.values() for s in found.sets)])
    rows = [r for r in held_against(task, tops, drawn, measured) if r["metric"] == LOSS]
    top, other = rows
    alone = ablate(trunk, task)
    assert top["value"] == pytest.approx(float(alone.change(Site("head", 1, 0), LOSS).mean()), abs=1e-5)
    assert (other["probe"], other["at"]) == ("random_heads", "1.1")  # the only set without the top head
    assert (
        top["chance"] == other["value"] == pytest.approx(float(alone.change(Site("head", 1, 1), LOSS).mean()), abs=1e-5)
    )
    assert (top["p"], top["n"], top["sd"]) == (0.5, 1, None)
    assert top["at"] == "1.0 against 1 sets, all there are"


def test_heads_that_carry_the_same_correlate():
    rng = np.random.default_rng(0)
    a = rng.normal(size=24)
    same, opposite = cross_load(a, np.exp(a)), cross_load(a, -a)
    assert same.rho == pytest.approx(1)
    assert opposite.rho == pytest.approx(-1)
    assert same.p == opposite.p == pytest.approx(1 / 10000)
    ps = [cross_load(rng.normal(size=12), rng.normal(size=12), permutations=199).p for _ in range(200)]
    assert 0.4 < np.mean(ps) < 0.6
    assert np.mean(np.array(ps) <= 0.05) < 0.12
    assert np.isnan(cross_load(np.zeros(5), np.arange(5.0)).rho)
    with pytest.raises(ValueError, match="equally many"):
        cross_load([1.0, 2.0, 3.0], [1.0, 2.0])


def test_nca_task_counts_patches_of_later_frames():
    task = nca_task(Subject("language", 400, 256, prefix=(1,)))
    batch, which = task.batch, np.flatnonzero(task.counts)
    frame = batch.frame
    whole = frame.start + (batch.length - frame.start) // frame.tokens * frame.tokens  # an unfinished frame may follow
    patches = [p for p in range(frame.start + frame.tokens, whole) if (batch.places[:, p] >= 0).all()]
    assert patches == [p for p in which + 1 if p < whole]
    assert len(patches) == (whole - frame.start) // frame.tokens * (frame.tokens - 2) - (frame.tokens - 2)
    ends = {int(t) for t in batch.inputs[:, frame.start :: frame.tokens].ravel()}  # the delimiter that begins a frame
    assert not ends & set(batch.targets[:, which].ravel().tolist())
    assert "nca_cell_accuracy" not in task.metrics  # its tokens are not patches to this model
    truth = Scored(torch.zeros(batch.targets.shape), torch.from_numpy(batch.targets))
    assert (task.metrics["nca_patch_accuracy"].values(truth, batch) == 1).all()


def test_cell_accuracy_counts_cells():
    spec = NcaSpec(grid=6, n_states=3, band=None)
    target = 0 + 3 * 1 + 9 * 2 + 27 * 0
    guesses = [target, target + 27, 2 + 3 * 2 + 9 * 1 + 27 * 1, 81]  # all, three, none, a delimiter
    batch = effects.Batch(np.zeros((1, 4)), np.full((1, 4), target))
    found = _cells(Scored(torch.zeros(1, 4), torch.tensor([guesses])), batch, spec)
    assert found.tolist() == [[1.0, 0.75, 0.0, 0.0]]


def test_an_unknown_option_is_named_before_anything_is_measured(tmp_path, run_cli_of_causes):
    tiny("llama").save_pretrained(tmp_path / "model")
    for option, told in (("stages=ablatoin", "did you mean 'ablation'"), ("metrics=own_loss", "'metric'")):
        out = run_cli_of_causes(
            "analyze",
            "--checkpoint",
            tmp_path / "model",
            "--out",
            tmp_path / "out",
            "--causes",
            "--set",
            f"causes.{option}",
        )
        assert out.returncode == 2
        assert told in out.stderr
        assert not (tmp_path / "out").exists()


@pytest.fixture
def run_cli_of_causes(tmp_path):
    import subprocess
    import sys

    def run(*arguments):
        command = [sys.executable, "-m", "nca_interp", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    return run


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("how", "median"),
        ("sets", 0),
        ("k", 99),
        ("metric", "loss"),
        ("stages", "ablatoin"),
        ("heads", "3.4"),
        ("heads", "L9H9"),
        ("probes", "inductio"),
    ],
)
def test_arguments_out_of_range_are_named(tmp_path, field, value):
    tiny("llama").save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=f"{field}: "):
        causes.causes(tmp_path / "model", **{field: value})


def test_metrics_on_a_model_of_nca_tokens():
    from nca_interp.data.nca.rows import Search, nca_rows

    spec = NcaSpec(grid=6, n_states=3, band=None)
    rows = np.concatenate(list(nca_rows(spec, 0, "val", 8, 67, 1, Search())))
    subject = Subject("nca", spec.vocab_size, 66, frozenset({81, 82}), (), rows, spec.model_dump(), "rows")
    tasks, skipped = effects.tasks_for(subject)
    assert [task.name for task in tasks] == ["repeated_tokens", "natural", "nca"]
    assert not skipped
    model, found = opened("llama"), {}
    for task in tasks:
        found |= ablate(Trunk(model), task, knock_outs=False).full
    tokens = torch.from_numpy(rows.astype(np.int64))
    with torch.inference_mode():
        logits = model(tokens[:, :-1]).logits
    nll = F.cross_entropy(logits.mT, tokens[:, 1:], reduction="none").double()
    assert torch.allclose(found["own_loss"], nll.mean(1), atol=1e-5)
    later = [q for q in range(66) if q + 1 >= 11 and (q + 1) % 11 not in (0, 10)]  # frames of 9 patches
    assert torch.allclose(found["nca_loss"], nll[:, later].mean(1), atol=1e-5)
    right = (logits.argmax(-1) == tokens[:, 1:])[:, later].double().mean(1)
    assert torch.allclose(found["nca_patch_accuracy"], right)
    assert (found["nca_cell_accuracy"] >= right).all()
