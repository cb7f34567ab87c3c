"""Every causal family of the installed transformers, as a tiny random model: what is measured equals what it computes.

What cannot be measured must be refused, with the reason that docs/families.md gives.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks.families import model_of, page, repeated, row, verdict
from benchmarks.tiny import VOCAB, families
from nca_interp import discover
from nca_interp.analysis.attention.access import access, backbone, reading
from nca_interp.analysis.attention.forward import forward
from nca_interp.analysis.attention.heads import PROJECTIONS, child
from nca_interp.analysis.attention.kernel import Layer
from nca_interp.analysis.attention.view import Attention
from nca_interp.analysis.causes.folded import read_weights
from nca_interp.analysis.causes.resume import Trunk
from nca_interp.analysis.stimuli.base import Batch, NotApplicable
from tests.analysis.reference import score

PAGE = Path(__file__).resolve().parents[3] / "docs" / "families.md"
PROBES = ("induction", "previous_token", "entropy")
PERIOD = 12
"""Shorter than the windows of the tiny models."""


@pytest.fixture(scope="module")
def batch() -> Batch:
    rng = np.random.default_rng(1)
    return repeated(np.stack([3 + rng.permutation(VOCAB - 3)[:PERIOD] for _ in range(2)]))


@pytest.fixture(scope="module")
def probes():
    return {name: d.value.function for name, d in discover.load("probes").items() if name in PROBES}


@pytest.mark.parametrize("family", sorted(families()))
def test_what_is_measured_is_what_the_model_computes(family, batch, probes):
    assert row(family) in PAGE.read_text().splitlines(), "run: python -m benchmarks.families > docs/families.md"
    found = verdict(family)
    if found.status in ("refused", "not tried"):
        assert found.missing
        return
    model, x = model_of(family), torch.from_numpy(batch.inputs)
    nll = forward(model, batch, None, True, (), {})
    layers = layers_of(model, batch) if found.attention != "no" else []
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        expected = model(x, use_cache=False, output_attentions=True)
        logits = model(x, use_cache=False).logits
    access(model)
    if found.ablation:
        assert_a_head_at_zero_is_a_slice_at_zero(model, x)
    targets = torch.from_numpy(batch.targets)
    own = F.cross_entropy(logits[:, :-1].mT.float(), targets, reduction="none")
    torch.testing.assert_close(nll, own, atol=3e-5, rtol=1e-4)
    if found.attention == "no":
        return
    with suppress(NotApplicable):  # each for its reason: no family's own code raises anything else
        read_weights(model)
    maps = [a for a in expected.attentions if a is not None and a.shape[-2:] == (2 * PERIOD, 2 * PERIOD)]
    assert len(maps) == len(layers) > 0
    for layer, pattern in zip(layers, maps, strict=True):
        view = Attention.of(layer, batch)
        torch.testing.assert_close(view.corner(2 * PERIOD), pattern.float(), atol=3e-5, rtol=0)
        for name, function in probes.items():
            ours = function(view).mean(0).numpy()
            np.testing.assert_allclose(ours, score(name, pattern.double(), batch), atol=3e-5, err_msg=name)


def layers_of(model, batch: Batch) -> list[Layer]:
    """Every layer that attends, as a measurement sees it, in their order."""
    seen: list[Layer] = []
    with torch.inference_mode(), reading(model, seen.append) as options:
        backbone(model)(input_ids=torch.from_numpy(batch.inputs), use_cache=False, **options)
    return sorted(seen, key=lambda layer: layer.number)


def assert_a_head_at_zero_is_a_slice_at_zero(model, x: torch.Tensor):
    """Ablating head 1 of layer 0 is a whole pass with its slice of the output projection's input at zero; nothing, nothing."""
    trunk = Trunk(model)
    passage = trunk.passage(x)
    heads = trunk.heads(passage, 0)
    projection = child(trunk.attention(0), PROJECTIONS, "output projection")

    def slice_at_zero(module, inputs):
        z = inputs[0].unflatten(-1, (trunk.n_heads, -1)).clone()
        z[..., 1, :] = 0
        return (z.flatten(-2),)

    for changes in (False, True):
        difference = -heads.z[:, :, 1] if changes else torch.zeros_like(heads.z[:, :, 1])
        written = heads.written + trunk.change(0, 1, difference)
        ours = trunk.finish(passage, 1, trunk.resume(passage, 0, heads, written))
        with torch.inference_mode():
            handle = projection.register_forward_pre_hook(slice_at_zero) if changes else None
            whole = trunk.passage(x).residuals[-1]
            if handle is not None:
                handle.remove()
        torch.testing.assert_close(ours, whole, atol=1e-4 * float(whole.abs().max()), rtol=0)
    assert not torch.allclose(whole, passage.residuals[-1], atol=1e-3 * float(whole.abs().max()))


def test_the_page_lists_every_family():
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")][1:]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines] == sorted(families())
    assert page(lines) == PAGE.read_text(), "run: python -m benchmarks.families > docs/families.md"
