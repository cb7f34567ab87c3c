"""The swap as a policy: what is drawn has the asked moments, what is kept is kept, and saying nothing changes no bit."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from nca_interp.base import UserError
from nca_interp.config import MODULES, ModelConfig
from nca_interp.model.llama import build, kind_of
from nca_interp.model.swap import swap
from nca_interp.swap_policy import TODAY, SwapPolicy

CONFIG = ModelConfig(n_layers=2, d_model=32, n_heads=4, d_mlp=48, n_ctx=64)
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def parent_of(vocab=300, config=CONFIG):
    """A stand-in for a pre-pre-trained model: grown weights, rows with a mean and correlated columns."""
    model = build(config, vocab, 0, "ppt")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.mul_(3.0).add_(torch.randn(p.shape, generator=generator) * 0.1)
            if kind_of(name) == "embed":
                mixing = torch.randn(p.shape[1], p.shape[1], generator=generator) * 0.2
                p.copy_(p @ mixing + torch.randn(p.shape[1], generator=generator) * 0.3)
    return model


def after(policy, vocab=300, parent=None, config=CONFIG, **more):
    model, log = swap(parent or parent_of(), policy.applied(config), vocab, 0, policy=policy, **more)
    return dict(model.named_parameters()), {row["tensor"]: row for row in log}


def moments(rows):
    rows = rows.double()
    return rows.mean(0), torch.cov(rows.T, correction=0)


@pytest.mark.parametrize("keep", [MODULES, ("attn",), ()])
def test_saying_nothing_is_the_swap_as_it_was(keep):
    """The whole of what the swap did before it had a policy, written out."""
    parent, expected = parent_of(), build(CONFIG, 100, 0, "pt")
    old = dict(parent.named_parameters())
    with torch.no_grad():
        for name, p in expected.named_parameters():
            if kind_of(name) in keep:
                p.copy_(old[name])
    model, _ = swap(parent, CONFIG, 100, 0, keep, policy=TODAY)
    for (name, a), b in zip(model.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("std", [0.02, 1.0, 3.0])
def test_a_normal_draw_has_the_asked_scale_and_is_that_of_the_model_configuration(std):
    found, _ = after(SwapPolicy(embed_std=std), vocab=2000)
    assert found[EMBED].std().item() == pytest.approx(std, rel=0.02)
    same = dict(build(CONFIG.model_copy(update={"embed_std": std}), 2000, 0, "pt").named_parameters())
    assert all(torch.equal(found[name], same[name]) for name in (EMBED, HEAD))


def test_the_unembedding_may_be_drawn_otherwise():
    found, log = after(SwapPolicy(embed_std=1.0, unembed_std=0.1), vocab=2000)
    assert found[EMBED].std().item() == pytest.approx(1.0, rel=0.02)
    assert found[HEAD].std().item() == pytest.approx(0.1, rel=0.02)
    parent = parent_of()
    found, log = after(SwapPolicy(embed_std=1.0, unembed="resample"), parent=parent)
    assert log[EMBED]["action"] == "re-initialised (new)"
    assert log[HEAD]["action"] == "re-initialised (resample)"
    assert rows_of(found[HEAD]) <= rows_of(parent.lm_head.weight)


def test_match_rms_has_the_root_mean_square_of_the_parents_rows():
    parent = parent_of()
    found, _ = after(SwapPolicy(embed="match_rms"), vocab=5000, parent=parent)
    for name in (EMBED, HEAD):
        old = dict(parent.named_parameters())[name]
        assert found[name].square().mean().sqrt().item() == pytest.approx(old.square().mean().sqrt().item(), rel=0.01)
        assert found[name].mean(0).abs().max() < 0.1 * found[name].std()
    # one stream for all Gaussian draws: arms of a seed differ by scale alone
    normal, _ = after(SwapPolicy(embed_std=1.0), vocab=5000)
    ratio = found[EMBED] / normal[EMBED]
    assert torch.allclose(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-4)


def test_match_gaussian_has_mean_and_covariance_of_the_parents_rows():
    parent = parent_of()
    found, _ = after(SwapPolicy(embed="match_gaussian"), vocab=60_000, parent=parent)
    for name in (EMBED, HEAD):
        mean, cov = moments(dict(parent.named_parameters())[name])
        own_mean, own_cov = moments(found[name])
        scale = cov.diagonal().mean()
        assert (own_mean - mean).abs().max() < 0.03 * scale.sqrt()
        assert (own_cov - cov).abs().max() < 0.05 * scale
        assert cov.fill_diagonal_(0).abs().max() > 0.1 * scale  # else the test could not tell


def test_match_gaussian_stays_in_the_span_of_few_rows():
    """Five rows span four dimensions around their mean."""
    parent = parent_of(vocab=5)
    found, _ = after(SwapPolicy(embed="match_gaussian"), vocab=400, parent=parent)
    centred = found[EMBED].detach() - parent.get_input_embeddings().weight.detach().mean(0)
    values = torch.linalg.svdvals(centred)
    assert values[3] > 0.05 * values[0] > 1e3 * values[4]


def rows_of(weight):
    return {tuple(row) for row in weight.tolist()}


def test_resampled_rows_are_the_parents_and_differ_by_seed():
    parent = parent_of(vocab=40)
    found, _ = after(SwapPolicy(embed="resample"), vocab=100, parent=parent)
    for name in (EMBED, HEAD):
        assert rows_of(found[name]) <= rows_of(dict(parent.named_parameters())[name])
        assert len(rows_of(found[name])) > 30
    policy = SwapPolicy(embed="resample")
    again, other = (swap(parent, CONFIG, 100, seed, policy=policy)[0].get_input_embeddings().weight for seed in (0, 1))
    assert torch.equal(again, found[EMBED])
    assert not torch.equal(other, found[EMBED])


@pytest.mark.parametrize("draw", ["match_rms", "match_gaussian", "resample"])
def test_rows_that_no_token_has_are_not_matched(draw):
    parent = parent_of(vocab=40)
    with torch.no_grad():
        for name in (EMBED, HEAD):
            dict(parent.named_parameters())[name][20:] = 100.0
    found, _ = after(SwapPolicy(embed=draw), vocab=100, parent=parent, parent_vocab=20)
    assert max(found[EMBED].abs().max(), found[HEAD].abs().max()) < 50


def test_kept_rows_are_the_parents_bit_for_bit():
    parent = parent_of()
    found, log = after(SwapPolicy(embed="keep"), parent=parent)
    for name, p in parent.named_parameters():
        assert torch.equal(found[name], p), name
        assert log[name]["action"] == "carried over"


def test_rows_of_another_vocabulary_are_not_kept():
    with pytest.raises(UserError, match="the parent has 300 rows and this stage 301.*legal: normal"):
        after(SwapPolicy(embed="keep"), vocab=301)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_tied_before_and_untied_after_and_the_other_way_round(before, tied):
    config = CONFIG.model_copy(update={"tied": before})
    parent = parent_of(config=config)
    for policy in (SwapPolicy(tied=tied), SwapPolicy(tied=tied, embed="resample"), SwapPolicy(tied=tied, embed="keep")):
        model, log = swap(parent, policy.applied(config), 300, 0, policy=policy)
        shared = model.get_input_embeddings().weight is model.get_output_embeddings().weight
        assert shared is tied
        assert (HEAD in {row["tensor"] for row in log}) is not tied
        if policy.embed == "keep":
            assert torch.equal(model.get_input_embeddings().weight, parent.get_input_embeddings().weight)
        if policy.embed == "keep" and not tied:
            assert torch.equal(model.get_output_embeddings().weight, parent.get_output_embeddings().weight)


def test_shrunk_tensors_have_the_norm_of_their_initial_values_and_the_parents_direction():
    parent, initial = parent_of(), dict(build(CONFIG, 300, 0, "pt").named_parameters())
    found, log = after(SwapPolicy(body_scale="shrink_to_initial"), parent=parent)
    for name, p in parent.named_parameters():
        if kind_of(name) != "embed":
            assert found[name].norm().item() == pytest.approx(initial[name].norm().item(), rel=1e-5)
            assert torch.allclose(found[name] / log[name]["factor"], p, rtol=1e-5, atol=1e-7)
            assert log[name]["factor"] != 1.0


def test_reset_norms_sets_gains_to_one_and_nothing_else():
    parent = parent_of()
    found, _ = after(SwapPolicy(body_scale="reset_norms"), parent=parent)
    for name, p in parent.named_parameters():
        if kind_of(name) == "norm":
            assert (found[name] == 1).all()
            assert not (p == 1).all()
        elif kind_of(name) != "embed":
            assert torch.equal(found[name], p)


def test_what_is_not_carried_is_not_scaled():
    policy = SwapPolicy(body_scale="shrink_to_initial")
    model, _ = swap(parent_of(), CONFIG, 300, 0, (), policy=policy)
    for (name, a), b in zip(model.named_parameters(), build(CONFIG, 300, 0, "pt").parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"embed": "resample", "embed_std": 0.1}, "embed_std: 0.1 with embed 'resample'; legal: only with normal"),
        (
            {"embed": "resample", "unembed_std": 0.1},
            "unembed_std: 0.1 with unembed 'resample'; legal: only with normal",
        ),
        ({"unembed": "keep", "unembed_std": 0.1}, "unembed_std: 0.1 with unembed 'keep'"),
        ({"tied": True, "unembed": "normal"}, "a tied unembedding is the embedding"),
        ({"tied": True, "unembed_std": 0.1}, "a tied unembedding is the embedding"),
        ({"embed": "old"}, "embed"),
        ({"embed_std": 0}, "greater than 0"),
        ({"embed_std": 101}, "less than or equal to 100"),
        ({"freeze_body": -1}, "greater than or equal to 0"),
        ({"freeze_body": True}, "true is no legal value"),
        ({"scale": 1}, "scale"),
    ],
)
def test_a_policy_that_contradicts_itself_is_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        SwapPolicy(**fields)


def test_a_policy_in_words():
    std = SwapPolicy(embed_std=1.0, unembed_std=0.02)
    assert std.words(std.applied(CONFIG)) == "embedding N(0, 1\u00b2), unembedding N(0, 0.02\u00b2)"
    other = SwapPolicy(embed="match_rms", tied=True, body_scale="shrink_to_initial", freeze_body=5)
    words = "embedding match rms, tied, body shrunk to its initial norms, body frozen for 5 steps"
    assert other.words(other.applied(CONFIG)) == words
