"""The public bridge to TransformerLens."""

from __future__ import annotations

import pytest
import torch

import nca_interp
from nca_interp.analysis.stimuli.base import NotApplicable
from tests.analysis.models import tiny


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_it_has_the_logits_of_the_model_and_hooks(tmp_path, family):
    tiny(family).save_pretrained(tmp_path)
    tokens = torch.arange(3, 15)[None]
    with torch.no_grad():
        expected = nca_interp.load_model(tmp_path)(tokens).logits
    bridge = nca_interp.to_transformer_lens(nca_interp.load_model(tmp_path))
    logits, cache = bridge.run_with_cache(tokens)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert cache["blocks.1.attn.hook_pattern"].shape == (1, 4, 12, 12)
    assert not any(p.requires_grad for p in bridge.parameters())


def test_what_it_does_not_know_is_said():
    with pytest.raises(NotApplicable, match="TransformerLens does not open Linear"):
        nca_interp.to_transformer_lens(torch.nn.Linear(2, 2))
