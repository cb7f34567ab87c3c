"""Spectra where LAPACK gives up: another route with the same values, NaN for that matrix alone, never an exception."""

import numpy as np
import pytest
import torch

from nca_interp.analysis import spectra
from nca_interp.analysis.causes.composition import COLUMNS, eigenvalue_scores, read_weights
from nca_interp.analysis.readout.regression import decode
from nca_interp.analysis.similarity.weights import spectrum
from tests.analysis.models import tiny

KINDS = {
    "eigvals": (torch.linalg, "eigvals"), "svdvals": (torch.linalg, "svdvals"), "eigvalsh": (torch.linalg, "eigvalsh"),
}  # fmt: skip


def products(*shape, seed=0):
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn + drawn.mT


def ordered(values):
    return torch.as_tensor(np.sort_complex(values.numpy()))


def stubborn(monkeypatch, kind, refuse):
    """torch's routine raises, as it does for the whole batch, where `refuse` says so of one matrix in it."""
    module, name = KINDS[kind]
    own = getattr(module, name)

    def routine(matrices):
        if any(refuse(one) for one in matrices.reshape(-1, *matrices.shape[-2:])):
            raise torch.linalg.LinAlgError("did not converge")
        return own(matrices)

    monkeypatch.setattr(module, name, routine)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("known", [0, 1])
def test_other_routes_give_the_same_values(monkeypatch, kind, known):
    matrices, find = products(2, 3, 6, 6), getattr(spectra, kind)
    expected = find(matrices)
    stubborn(monkeypatch, kind, lambda one: torch.equal(one, matrices[1, 2]))
    if known:  # NumPy's does not converge either
        monkeypatch.setattr(np.linalg, "svd" if kind == "svdvals" else kind, _fails)
        monkeypatch.setattr(spectra, "_gesdd", _fails)
    found = find(matrices)
    assert torch.allclose(ordered(found), ordered(expected), atol=1e-12)
    assert found.dtype == expected.dtype


def _fails(*args, **more):
    raise np.linalg.LinAlgError("did not converge")


@pytest.mark.parametrize("kind", KINDS)
def test_what_no_route_finds_is_nan_for_that_matrix_alone(monkeypatch, kind):
    matrices, find = products(4, 5, 5), getattr(spectra, kind)
    expected = find(matrices)
    matrices[1, 0, 0], matrices[3] = torch.nan, torch.inf
    found = find(matrices)
    assert torch.equal(found.isnan().all(-1), torch.tensor([False, True, False, True]))
    assert torch.allclose(ordered(found[::2]), ordered(expected[::2]), atol=1e-12)


def test_products_with_many_zero_rows_converge_on_every_processor():
    """A product of a one-hot embedding: one eigenvalue, 39 / norm, and 43 zeros; MKL's geev stops at it with AVX-512."""
    middle = torch.zeros(44, 44, dtype=torch.float64)
    middle[1:40, 1:40] = 0.031
    assert spectra.eigvals(middle).abs().sum() == pytest.approx(39 * 0.031, abs=1e-9)


def test_a_head_without_eigenvalues_is_not_computed_and_the_others_are(monkeypatch):
    weights = read_weights(tiny("llama"))
    expected = eigenvalue_scores(weights)
    weights.w_o[1, 2, 0, 0] = torch.nan
    found = eigenvalue_scores(weights)
    lost = (found.probe == "ov_copying") & (found.layer == 1) & (found["head"] == 2)
    assert found.value[lost].isna().tolist() == [True]
    assert list(found.columns) == COLUMNS
    np.testing.assert_allclose(found.value[~lost].to_numpy(float), expected.value[~lost].to_numpy(float), atol=1e-12)


def test_the_spectrum_of_a_matrix_with_a_nan_is_no_number():
    matrix = torch.eye(4)
    assert spectrum(matrix).effective_rank == pytest.approx(4)
    matrix[0, 1] = torch.nan
    assert np.isnan(spectrum(matrix).effective_rank)


def test_a_decomposition_that_does_not_converge_goes_another_way(monkeypatch):
    matrix = products(5, 5)[:, :3].numpy()
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    monkeypatch.setattr(np.linalg, "svd", _fails)
    found = spectra.svd(matrix)
    np.testing.assert_allclose(found[1], s, atol=1e-12)
    np.testing.assert_allclose((found[0] * found[1]) @ found[2], (u * s) @ vt, atol=1e-12)


def test_features_that_are_not_finite_are_named():
    features, attribute = np.ones((40, 3)), np.arange(40.0)
    features[2, 1] = np.nan
    with pytest.raises(ValueError, match="features: 1 of 120 are NaN"):
        decode(features, attribute)
