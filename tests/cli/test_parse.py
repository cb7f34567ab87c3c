"""Mistakes that the option parser meets: one line each, with what was typed and where help is."""

from __future__ import annotations

import pytest

from tests.cli.test_fuzz import told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "smoke", "--regime", ""], "--regime: '' is empty; leave it out, or give it a value"),
        (["list", "--probes="], "--probes: '' is empty"),
        (["train", " "], "argument: ' ' is empty"),
        (["train", "smoke", "--seed", "x"], "--seed: 'x': Input should be a valid integer"),
        (["train", "smoke", "--seed", "-1"], "--seed: '-1': Input should be greater than or equal to 0"),
        (["data", "inspect", "nca", "--seed=-7"], "--seed: '-7': Input should be greater than or equal to 0"),
        (["train", "smoke", "--workers=0", "-n"], "--workers: '0': Input should be greater than or equal to 1"),
        (
            ["train", "smoke", "--dry-run=5"],
            "Option '--dry-run' does not take a value, got '5'; see: nca-interp train --help",
        ),
        (["data", "prepare", "nca"], "Missing option '--out'; see: nca-interp data prepare --help"),
        (["train", "smoke", "--out"], "Option '--out' requires an argument; see: nca-interp train --help"),
        (["train", "smoke", "--regim", "nca"], "No such option: --regim (Possible options: --engine, --regime)"),
        (["trian", "smoke"], "No such command 'trian'. Did you mean 'train', 'transfer'?; see: nca-interp --help"),
        (["train", "smoke", "--out", "n" * 300], "the name is too long"),
        (["train", "smoke", "--dry-run", "--out", "n" * 300 + "/study"], "the name is too long"),
        (["report", "n" * 300], "the name is too long"),
        (["analyze", "--checkpoint", "x", "--device", "meta"], "device: 'meta' is not usable here"),
    ],
)
def test_a_mistake_is_one_line_with_what_was_typed(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, errors = told(arguments)
    assert code == 2
    assert message in errors
    assert errors.startswith("error: ")
    assert len(errors.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_without_a_command_there_is_help_and_exit_code_2():
    for arguments in ([], ["data"]):
        code, errors = told(arguments)
        assert code == 2
        assert errors.startswith("Usage: nca-interp")
