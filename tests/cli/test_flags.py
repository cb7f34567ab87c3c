"""Measurements by name, and options that they take as flags."""

from __future__ import annotations

import pytest

from nca_interp.cli.flags import split
from nca_interp.errors import UserError


def test_flags_ask_for_their_measurement_and_keep_their_text_as_typed():
    given = split(["--clean", "a//b ", "folder", "--corrupt=x = y", "--causes", "--answer", " Mary", "--causes"])
    assert given.places == ["folder"]
    assert given.asked == ["causes", "pairs"]
    assert given.options == {"pairs": {"clean": "a//b ", "corrupt": "x = y", "answer": " Mary"}}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--claen", "x"], "no such option or measurement: --claen; did you mean 'clean'"),
        (["--clean"], "--clean: a value is missing"),
        (["--clean", "a", "--clean", "b"], "--clean: given twice"),
        (["--causes=1"], "no such option or measurement: --causes=1"),
        (["-causes"], "no such option or measurement: -causes"),
        (["a", "b"], "unexpected argument 'b'"),
    ],
)
def test_others_are_refused(arguments, said):
    with pytest.raises(UserError) as raised:
        split(arguments)
    assert said in str(raised.value)
