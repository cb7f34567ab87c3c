"""What `analyze` chooses, and refuses before it writes anything."""

from __future__ import annotations

import pytest

from nca_interp.base import UserError
from nca_interp.cli.analyze import _collect, _options, chosen
from tests.analysis.models import tiny


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda weights: weights.unlink(), r"checkpoint-1: no \*.safetensors weights in it"),
        (lambda weights: weights.write_bytes(weights.read_bytes()[:2000]), "checkpoint-1/model.safetensors: truncated or damaged"),
        (lambda weights: weights.write_bytes(weights.read_bytes()[:-1]), "checkpoint-1/model.safetensors: truncated or damaged"),
    ],
)  # fmt: skip
def test_a_step_that_is_half_written_is_named(tmp_path, spoil, reason):
    for step in (1, 2):
        tiny("llama").save_pretrained(tmp_path / "series" / f"checkpoint-{step}")
    spoil(tmp_path / "series" / "checkpoint-1" / "model.safetensors")
    with pytest.raises(UserError, match=reason):
        _collect([str(tmp_path / "series")], {}, tmp_path / "out", [], {})
    assert not (tmp_path / "out").exists()


RUNS = ["ppt.nca.s0", "ppt.nca.s1", "pt.nca.web.s0", "pt.nca-low.web.s0"]


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (None, RUNS),
        (["*.s1"], ["ppt.nca.s1"]),
        (["pt.nca.*"], ["pt.nca.web.s0"]),
        (["ppt.nca.s0", "pt.*"], ["ppt.nca.s0", "pt.nca.web.s0", "pt.nca-low.web.s0"]),
    ],
)
def test_runs_are_chosen_by_pattern(patterns, found):
    assert chosen(patterns, RUNS) == set(found)


def test_a_pattern_that_names_no_run_is_refused():
    with pytest.raises(UserError, match=r"--run pt\.nka\.web\.s0: .* did you mean 'pt\.nca\.web\.s0'"):
        chosen(["ppt.*", "pt.nka.web.s0"], RUNS)


def test_a_pattern_that_names_no_checkpoint_is_refused_before_anything_is_written(tmp_path):
    tiny("llama").save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match="--run nothing:"):
        _collect([f"a={tmp_path / 'model'}"], {}, tmp_path / "out", [], {}, ["nothing"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "asked", "options", "reason"),
    [
        ({"tokens": "none.txt"}, [], {}, r"--tokens none\.txt: no such file or folder; legal: a file of text"),
        ({"tokens": "."}, [], {}, r"--tokens \.: no meta\.json in it; legal: a file of text"),
        ({"tokenizer": "none.json"}, [], {}, "none.json"),
        ({}, ["causes"], {"causes": {"heads": ["L0H0", "L9H9"]}}, r"causes\.heads: L0H0,L9H9; legal: L0H0 to L\dH\d"),
        ({}, ["causes"], {"causes": {"k": 1000}}, r"causes\.k: 1000; legal: 1 to \d+"),
        ({}, ["causes"], {"causes": {"probes": ["inducton"]}}, r"causes\.probes: 'inducton' .*did you mean 'induction'"),
    ],
)  # fmt: skip
def test_what_no_checkpoint_can_be_asked_is_refused_before_anything_is_written(
    tmp_path, monkeypatch, given, asked, options, reason
):
    monkeypatch.chdir(tmp_path)
    tiny("llama").save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=reason):
        _collect([f"a={tmp_path / 'model'}"], given, tmp_path / "out", asked, options)
    assert not (tmp_path / "out").exists()


def test_an_option_of_a_measurement_is_named_as_it_was_written():
    with pytest.raises(UserError, match=r"--set causes\.metrc: unknown key 'metrc'; did you mean 'metric'"):
        _options(["causes.metrc=own_loss"], None, None, None, {})
