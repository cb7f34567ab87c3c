"""How much a model is shown: all to small ones and to our own, whole sequences of at most so many tokens to large ones of others."""

import numpy as np
import pytest
from transformers import AutoConfig

from nca_interp.analysis.stimuli.base import Batch, Subject
from nca_interp.analysis.stimuli.size import FEWEST, SHOWN, flops_per_token, is_large
from nca_interp.analysis.stimuli.subject import describe

SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 300,
}
LARGE = {**SMALL, "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "vocab_size": 49152}


def rows(sequences, length):
    return Batch(np.arange(sequences * length).reshape(sequences, length), np.zeros((sequences, length), dtype=int))


@pytest.mark.parametrize(
    ("shown", "fast", "sequences", "length", "kept"),
    [
        (None, False, 32, 512, 32),
        (None, True, 32, 512, 8),
        (8192, False, 32, 512, 16),
        (8192, False, 16, 128, 16),
        (8192, True, 32, 512, 4),
        (2048, False, 16, 512, 4),
        (2048, False, 64, 16, 64),
        (2048, False, 16, 4096, FEWEST),
        (2048, False, 3, 4096, 3),
    ],
)
def test_the_first_sequences_are_shown_whole(shown, fast, sequences, length, kept):
    whole = rows(sequences, length)
    part = Subject("x", 10, 512, fast=fast, shown=shown).part(whole)
    assert part.inputs.tolist() == whole.inputs[:kept].tolist()
    assert len(part.targets) == kept


def test_stimuli_of_other_sizes_are_not_mixed_up():
    assert Subject("x", 10, 512, shown=8192).key != Subject("x", 10, 512).key


def test_large_models_of_others_are_shown_less(tmp_path):
    small, large = (AutoConfig.for_model("llama", **shape) for shape in (SMALL, LARGE))
    assert (is_large(small), is_large(large)) == (False, True)
    assert flops_per_token(large) == 24 * 30 * 576**2 + 2 * 576 * 49152
    ours = {"meta": {"vocab_size": 49152}}
    assert [describe(tmp_path, c, p).shown for c, p in ((small, {}), (large, {}), (large, ours))] == [None, SHOWN, None]
