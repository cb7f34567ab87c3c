"""Patching a pair of prompts: equal to plain hooks and TransformerLens, and the planted circuit is found."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from nca_interp.analysis.causes.resume import Trunk
from nca_interp.analysis.causes.transformer_lens import to_transformer_lens
from nca_interp.analysis.pairs import patching
from nca_interp.analysis.pairs.pair import Pair
from nca_interp.analysis.pairs.patching import Patching
from nca_interp.analysis.probing.measure import open_scored
from nca_interp.analysis.stimuli.base import NotApplicable
from tests.analysis.models import TOKENS, planted_gpt2, tiny

CLEAN, CORRUPT = [5, 17, 30, 17, 44, 5, 61], [5, 18, 30, 17, 43, 5, 61]
PAIR = Pair(CLEAN, CORRUPT, 20, 33)


@pytest.fixture(scope="module")
def model():
    return tiny("llama-gqa")


@pytest.fixture(scope="module")
def found(model):
    return found_of(Patching(Trunk(model), PAIR))


def found_of(one: Patching) -> dict[tuple, float]:
    return {(s["site"], s["layer"], s.get("position", s.get("head"))): value for s, value in one.activations()}


def difference(logits: torch.Tensor) -> float:
    return float(logits[0, -1, PAIR.answer] - logits[0, -1, PAIR.wrong])


def plain(model, module, place: int) -> float:
    """The corrupted pass with a module's output at one place replaced by that of the clean pass."""
    kept: list[torch.Tensor] = []
    first = lambda out: out[0] if isinstance(out, tuple) else out
    handle = module.register_forward_hook(lambda m, a, out: kept.append(first(out).clone()))
    with torch.no_grad():
        model(torch.tensor([CLEAN]))
    handle.remove()

    def swap(m, a, out):
        other = first(out).clone()
        other[0, place] = kept[0][0, place]
        return (other, *out[1:]) if isinstance(out, tuple) else other

    handle = module.register_forward_hook(swap)
    with torch.no_grad():
        value = difference(model(torch.tensor([CORRUPT])).logits)
    handle.remove()
    return value


def test_equals_plain_hooks_at_every_place(model, found):
    for place in range(len(CLEAN)):
        assert found["resid", 0, place] == pytest.approx(plain(model, model.model.embed_tokens, place), abs=1e-5)
        for n, layer in enumerate(model.model.layers):
            assert found["attn", n, place] == pytest.approx(plain(model, layer.self_attn, place), abs=1e-5)
            assert found["mlp", n, place] == pytest.approx(plain(model, layer.mlp, place), abs=1e-5)
            if n:
                assert found["resid", n, place] == pytest.approx(
                    plain(model, model.model.layers[n - 1], place), abs=1e-5
                )


def test_equals_transformer_lens_at_every_head(model, found):
    bridge = to_transformer_lens(deepcopy(model), "tiny")
    with torch.inference_mode():
        _, cache = bridge.run_with_cache(torch.tensor([CLEAN]))
    for layer in range(2):
        name = f"blocks.{layer}.attn.hook_z"
        for head in range(4):

            def swap(z, hook, head=head, name=name):
                z = z.clone()
                z[:, :, head] = cache[name][:, :, head]
                return z

            with torch.inference_mode():
                logits = bridge.run_with_hooks(torch.tensor([CORRUPT]), fwd_hooks=[(name, swap)])
            assert found["head", layer, head] == pytest.approx(difference(logits), abs=1e-5)


def test_ends_and_the_number_of_rows_that_go_together_change_nothing(model, found, monkeypatch):
    one = Patching(Trunk(model), PAIR)
    with torch.no_grad():
        clean, corrupt = (model(torch.tensor([ids])).logits for ids in (CLEAN, CORRUPT))
    assert float(one.full.value[0]) == pytest.approx(difference(clean), abs=1e-5)
    assert float(one.broken.value[0]) == pytest.approx(difference(corrupt), abs=1e-5)
    assert float(one.full.probability[0]) == pytest.approx(float(clean[0, -1].softmax(-1)[20]), abs=1e-6)
    monkeypatch.setattr(patching, "ROWS", 3)
    again = Patching(Trunk(model), PAIR)
    assert again.rows == 3
    for key, value in found_of(again).items():
        assert value == pytest.approx(found[key], abs=1e-5), key


def test_the_answer_alone_is_measured_by_its_log_probability(model):
    one = Patching(Trunk(model), PAIR._replace(wrong=None))
    with torch.no_grad():
        logs = model(torch.tensor([CLEAN])).logits[0, -1].log_softmax(-1)
    assert float(one.full.value[0]) == pytest.approx(float(logs[20]), abs=1e-5)


def test_a_path_to_the_logits_changes_the_last_stream_alone(model):
    """By hand: the difference that a head writes, added to the last residual stream."""
    trunk = Trunk(model)
    one = Patching(trunk, PAIR)
    values = {(s["layer"], s["head"]): v for s, v in one.to_logits()}
    w_o = model.model.layers[0].self_attn.o_proj.weight
    z = [trunk.heads(trunk.passage(torch.tensor([ids])), 0).z[0, -1, 2] for ids in (CLEAN, CORRUPT)]
    with torch.no_grad():
        last = model.model(torch.tensor([CORRUPT]), output_hidden_states=True)
        stream = one.bad.residuals[-1][:, -1] + w_o[:, 16:24] @ (z[0] - z[1])
        logits = model.lm_head(model.model.norm(stream))[None]
    assert last.last_hidden_state.shape[-1] == 32
    assert values[0, 2] == pytest.approx(difference(logits), abs=1e-5)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """a b c d a -> b against e b c d a -> ?: 0.0 tells each token what stood before it, 1.0 looks for it and copies."""
    pair = Pair([TOKENS - 1, 0, 1, 2, 3, 0], [TOKENS - 1, 4, 1, 2, 3, 0], 1, 4)
    return Patching(Trunk(open_scored(planted_gpt2(tmp_path_factory.mktemp("planted")))), pair)


def recovered(one: Patching, value: float) -> float:
    full, broken = float(one.full.value[0]), float(one.broken.value[0])
    return (value - broken) / (full - broken)


def test_the_planted_circuit_is_found_layer_by_layer(planted):
    found = {key: recovered(planted, value) for key, value in found_of(planted).items()}
    assert found["resid", 0, 1] == pytest.approx(1.0, abs=1e-3), "the word itself"
    assert found["attn", 0, 2] == pytest.approx(1.0, abs=1e-3), "the token behind it is told"
    assert found["resid", 1, 2] == pytest.approx(1.0, abs=1e-3)
    assert found["attn", 1, 5] == pytest.approx(1.0, abs=1e-3), "and read from there by the last token"
    assert all(abs(v) < 1e-3 for (site, *_), v in found.items() if site == "mlp")
    assert found["head", 0, 0] == pytest.approx(1.0, abs=1e-3)
    assert found["head", 1, 0] > 1, "1.1 takes some of it away again"
    assert found["head", 1, 1] < 0
    assert abs(found["head", 0, 1]) < 0.05, "the uniform head carries next to nothing"


def test_the_planted_path_is_found(planted):
    direct = {(s["layer"], s["head"]): recovered(planted, v) for s, v in planted.to_logits()}
    assert abs(direct[0, 0]) < 1e-3, "0.0 works through 1.0 only"
    assert direct[1, 0] > 1
    heads = [(0, 0), (0, 1), (1, 0), (1, 1)]
    edges = {
        (s["from_layer"], s["from_head"], s["layer"], s["head"]): recovered(planted, v) for s, v in planted.edges(heads)
    }
    assert set(edges) == {(0, a, 1, b) for a in (0, 1) for b in (0, 1)}
    assert edges[0, 0, 1, 0] > 1
    assert edges[0, 0, 1, 1] < 0
    assert abs(edges[0, 1, 1, 0]) < 0.05


def test_where_branches_are_normalised_paths_do_not_separate_but_activations_do():
    one = Patching(Trunk(tiny("gemma2")), PAIR)
    assert len(found_of(one)) == 2 * (3 * len(CLEAN) + 4)
    with pytest.raises(NotApplicable, match="paths do not separate"):
        next(one.to_logits())
