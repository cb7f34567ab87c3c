"""Exact match: what counts as an answer, and that decoding does not depend on batching."""

from __future__ import annotations

import pytest

from nca_interp.train.finetune import extract_answer, normalise


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3 + 4 = 7\n#### 7", "7"),
        ("#### 1,234.", "1234"),
        ("#### $12\nQ: next", "12"),
        ("first #### 3 then #### 4", "4"),
        ("no mark", None),
        ("####", None),
        ("####   \n", None),
    ],
)
def test_extract_answer(text, answer):
    assert extract_answer(text) == answer


def test_normalise_keeps_signs_and_decimals():
    assert normalise(" -1,000.50 ") == "-1000.50"
