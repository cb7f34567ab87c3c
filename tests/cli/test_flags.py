"""Measurements by name, and options that they take as flags."""

from __future__ import annotations

import sys

import pytest

from nca_interp.cli.analyze import analyze
from nca_interp.cli.flags import only_these, split
from nca_interp.errors import UserError


def test_flags_ask_for_their_measurement_and_keep_their_text_as_typed():
    given = split(["--clean", "a//b ", "folder", "--corrupt=x = y", "--causes", "--answer", " Mary", "--causes"])
    assert given.places == ["folder"]
    assert given.asked == ["causes", "pairs"]
    assert given.options == {"pairs": {"clean": "a//b ", "corrupt": "x = y", "answer": " Mary"}}


def test_causes_are_narrowed_by_flags_that_ask_for_them():
    from nca_interp.measurement import measurements

    given = split(["--stage", "ablation,weights", "--metric=own_loss", "--heads", "L1H2,L0H0", "--sets", "5"])
    assert given.asked == ["causes"]
    read = measurements()["causes"].read(given.options["causes"])
    assert (read.stages, read.metric, read.sets) == (("ablation", "weights"), ("own_loss",), 5)
    assert read.named == [(1, 2), (0, 0)]


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


def test_every_measurement_can_be_asked_for_alone():
    from nca_interp.measurement import builtin

    for name, one in builtin().items():
        if one.measure is not None:
            assert only_these([name]) == [name]
    assert only_these(["probes, nulls", "causes"]) == ["probes", "nulls", "causes"]
    assert only_these([""]) == []


def test_only_refuses_what_is_no_measurement():
    with pytest.raises(UserError, match="--only prboes: no such measurement; did you mean 'probes'"):
        only_these(["prboes"])
    with pytest.raises(UserError, match="--only dynamics: no such measurement"):  # tables of what others measured
        only_these(["dynamics"])


@pytest.mark.parametrize(
    ("typed", "only"),
    [
        ([], None),
        (["--only"], [""]),
        (["--only", "--causes"], [""]),
        (["--only", "probes", "--causes"], ["probes"]),
        (["--only=probes", "--only", "nulls"], ["probes", "nulls"]),
    ],
)
def test_only_takes_a_name_or_none(typed, only, monkeypatch):
    from nca_interp.cli.app import call

    seen = []

    def noted(names):
        seen.append(names)
        raise UserError("enough")

    monkeypatch.setattr(sys.modules[analyze.__module__], "only_these", noted)
    assert call(["analyze", "folder", *typed]) == 2
    assert seen == [only or []]


def test_a_switch_takes_no_value_and_asks_for_nothing():
    given = split(["--run-generated-code", "--tasks", "recall:1", "--k=1,2"])
    assert given.asked == ["reasoning"]
    assert given.options == {"reasoning": {"run_generated_code": True, "tasks": "recall:1", "k": "1,2"}}
    assert split(["--run-generated-code"]).asked == []
    with pytest.raises(UserError, match="did you mean 'run-generated-code'"):
        split(["--run-generated-cod"])
