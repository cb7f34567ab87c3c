"""Spectra, CKA, update directions and linear read-out, against closed forms, brute force and planted answers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nca_interp.analysis.readout.regression import decode
from nca_interp.analysis.similarity.cka import cka, cka_matrix, moments, residual_streams
from nca_interp.analysis.similarity.weights import spectrum, update_cosines, weight_table
from nca_interp.config import ModelConfig
from nca_interp.model.llama import build

TINY = ModelConfig(n_layers=2, d_model=16, n_heads=2, d_mlp=24, n_ctx=32)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hsic_by_gram(x, y):
    """Song et al. 2012, equation 5, written out with n x n matrices."""
    k, m = x @ x.T, y @ y.T
    n = len(k)
    k, m = k - torch.diag(k.diag()), m - torch.diag(m.diag())
    one = torch.ones(n, dtype=k.dtype)
    total = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return ((k @ m).trace() + total - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))


def test_cka_equals_the_definition_with_gram_matrices():
    x, y = noise(60, 7), torch.cat([noise(60, 3, seed=1), noise(60, 2)], 1)
    wanted = hsic_by_gram(x, y) / (hsic_by_gram(x, x) * hsic_by_gram(y, y)).sqrt()
    assert cka(x, y) == pytest.approx(float(wanted), abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 100), st.integers(2, 8))
def test_cka_is_one_for_a_rotated_scaled_shifted_copy(seed, scale, width):
    x = noise(40, width, seed=seed)
    rotation, _ = torch.linalg.qr(noise(width, width, seed=seed + 1))
    assert cka(x, scale * x @ rotation + noise(width, seed=seed + 2)) == pytest.approx(1.0, abs=1e-9)


def test_cka_of_independent_features_is_zero_only_because_it_is_debiased():
    found = [cka(noise(200, 100, seed=s), noise(200, 100, seed=s + 1000)) for s in range(20)]
    assert abs(np.mean(found)) < 0.01
    x, y = (noise(200, 100, seed=s) - noise(200, 100, seed=s).mean(0) for s in (1, 2))
    biased = (x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
    assert biased > 0.25


def test_cka_refuses_different_positions_and_has_no_value_without_variation():
    with pytest.raises(ValueError, match="40 and 41 positions"):
        cka(noise(40, 3), noise(41, 3))
    assert np.isnan(cka(noise(40, 3), torch.ones(40, 3)))


def test_residual_streams_are_what_the_model_itself_reports():
    model = build(TINY, 50, seed=0, stream="pt").eval()
    rows = np.random.default_rng(0).integers(0, 50, (12, 20))
    streams = residual_streams(model, rows, positions=200)
    with torch.inference_mode():
        hidden = model(torch.from_numpy(rows), output_hidden_states=True).hidden_states
    assert [len(s) for s in streams] == [200] * 3
    for stream, reported in zip(streams[:2], hidden[:2], strict=True):
        assert torch.allclose(stream, reported[:, 1:].reshape(-1, 16)[:200], atol=1e-6)
    # transformers normalises the last one; the stream itself is before the norm
    assert torch.allclose(model.model.norm(streams[2]), hidden[2][:, 1:].reshape(-1, 16)[:200], atol=1e-5)


def test_cka_matrix_of_a_model_with_itself_has_ones_on_the_diagonal():
    model = build(TINY, 50, seed=0, stream="pt").eval()
    rows = np.random.default_rng(0).integers(0, 50, (12, 20))
    streams = [moments(s) for s in residual_streams(model, rows)]
    matrix = cka_matrix(streams, streams)
    assert matrix.shape == (3, 3)
    assert np.allclose(np.diag(matrix), 1)
    assert np.allclose(matrix, matrix.T)


@pytest.mark.parametrize("shape", [(6, 6), (6, 20), (20, 6)])
def test_a_matrix_with_k_equal_singular_values_uses_k_directions(shape):
    matrix = torch.zeros(shape)
    for i in range(4):
        matrix[i, i] = 3.0
    assert spectrum(matrix) == pytest.approx((4.0, 4.0, 6))


def test_spectrum_from_the_gram_matrix_equals_that_from_singular_values():
    matrix = noise(30, 50)
    s = torch.linalg.svdvals(matrix)
    share = s / s.sum()
    found = spectrum(matrix)
    assert found.effective_rank == pytest.approx(float(torch.exp(-(share * share.log()).sum())))
    assert found.participation == pytest.approx(float((s**2).sum() ** 2 / (s**4).sum()))
    assert spectrum(torch.zeros(3, 4)).effective_rank == 0


def test_weight_table_of_a_model_and_its_start():
    start = dict(build(TINY, 50, seed=0, stream="pt").named_parameters())
    other = dict(build(TINY, 50, seed=1, stream="pt").named_parameters())
    table = weight_table(start, start)
    assert (table.displacement == 0).all()
    far = weight_table(other, start).set_index("tensor")
    matrices = far[far["rank"] > 0]
    assert matrices.displacement.between(1.2, 1.6).all()  # independent draws of one size: sqrt(2)
    assert set(far.kind) == {"attn", "mlp", "norm", "embed"}
    assert far.loc["model.layers.1.mlp.up_proj.weight", "layer"] == 1
    assert weight_table(start).displacement.isna().all()
    smaller = build(TINY, 40, seed=0, stream="ppt").state_dict()
    swapped = weight_table(start, smaller).set_index("tensor").displacement
    assert swapped.drop(["model.embed_tokens.weight", "lm_head.weight"]).notna().all()
    assert swapped[["model.embed_tokens.weight", "lm_head.weight"]].isna().all()


def test_update_cosines_of_equal_opposite_unrelated_and_missing_updates():
    zero = {"model.layers.0.mlp.up_proj.weight": torch.zeros(40, 50)}
    one = {k: noise(40, 50, seed=3) for k in zero}
    two = {k: noise(40, 50, seed=4) for k in zero}
    minus = {k: -2 * v for k, v in one.items()}
    assert update_cosines(one, zero, one, zero).cosine.item() == pytest.approx(1)
    assert update_cosines(one, zero, minus, zero).cosine.item() == pytest.approx(-1)
    assert abs(update_cosines(one, zero, two, zero).cosine.item()) < 4 / 2000**0.5
    assert np.isnan(update_cosines(one, zero, zero, zero).cosine.item())
    assert update_cosines(one, zero, {}, {}).empty


def test_read_out_finds_a_planted_direction_and_nothing_in_noise():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 40))
    found = decode(x, x @ rng.normal(size=40) + 0.1 * rng.normal(size=120))
    assert found.spearman > 0.95
    assert found.r2 > 0.9
    nothing = [decode(x, rng.normal(size=120), seed=s).spearman for s in range(20)]
    assert abs(np.mean(nothing)) < 0.1


def test_read_out_is_judged_on_rules_it_has_not_seen():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(60, 300)), rng.normal(size=60)  # wider than rules: any attribute fits the training part
    assert abs(decode(x, y).spearman) < 0.4
    with pytest.raises(ValueError, match="at least 20"):
        decode(x[:10], y[:10])
    with pytest.raises(ValueError, match="same for every rule"):
        decode(x, np.ones(60))
