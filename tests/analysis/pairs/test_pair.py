"""What a pair of prompts must be: each fault is one message with the field and its tokens."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer

from nca_interp.analysis.pairs.pair import LONGEST, Options, read_pair
from nca_interp.analysis.prompts.texts import Encoder
from nca_interp.base import UserError
from tests.analysis.models import byte_tokenizer

WORDS = (" Mary", " John", " gave", " to")
GOOD = {"clean": "A to Mary gave to", "corrupt": "A to John gave to", "answer": " Mary", "wrong": " John"}


@pytest.fixture(scope="module")
def encode(tmp_path_factory):
    folder = byte_tokenizer(tmp_path_factory.mktemp("tokenizer"), WORDS)
    return Encoder(Tokenizer.from_file(str(folder / "tokenizer.json")), (7,))


def test_a_pair_is_tokens_with_the_prefix(encode):
    pair = read_pair(encode, Options(**GOOD))
    mary, john = encode.ids(" Mary")[0], encode.ids(" John")[0]
    assert len(pair.clean) == len(pair.corrupt) == 6
    assert pair.clean[0] == 7
    assert (pair.clean[3], pair.corrupt[3]) == (mary, john)
    assert (pair.answer, pair.wrong) == (mary, john)
    assert read_pair(encode, Options(**{**GOOD, "wrong": ""})).wrong is None


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"corrupt": "A to Johnny gave to"}, ("--clean and --corrupt", "6 and 8 tokens", "part at token 3", "' Mary'", "' John'")),
        ({"corrupt": GOOD["clean"]}, ("--clean and --corrupt", "the same 6 tokens")),
        ({"answer": "Mary"}, ("--answer 'Mary'", "a leading space", "--answer ' Mary'")),
        ({"answer": " Marys"}, ("--answer ' Marys'", "2 tokens", "' Mary'", "'s'", "legal: one")),
        ({"wrong": " Johnny"}, ("--wrong ' Johnny'", "' John'", "legal: one")),
        ({"wrong": " Mary"}, ("--answer and --wrong", "the same token", "' Mary'")),
        ({"clean": " to" * LONGEST, "corrupt": " to" * (LONGEST - 1) + " Mary"}, ("--clean", f"{LONGEST + 1} tokens", f"at most {LONGEST}")),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(encode, change, parts):
    with pytest.raises(UserError) as raised:
        read_pair(encode, Options(**{**GOOD, **change}))
    assert all(part in str(raised.value) for part in parts), raised.value
    assert "\n" not in str(raised.value)
