"""However a run is interrupted, it ends in the same bits: SIGKILL anywhere, signals, damage, a second process, a full disk."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections import Counter

import pytest

from nca_interp.base import Busy, RunFailed, UserError
from nca_interp.data.tokens import write_tokens
from nca_interp.store import StudyDir, damage, read_json, sha256_file, write_json
from nca_interp.train.guard import locked
from nca_interp.train.loop import train
from tests.train.conftest import SPEC, make_run
from tests.train.killing import KILLED, Trap, start

EXACT = ("step", "tokens", "loss", "val_loss", "val_bpb", "grad_norm", "lr")


def two_stages(**changes):
    """A pre-pre-training run and the pre-training run that swaps its embeddings, 24 steps each."""
    changes = {"steps": 24, "checkpoint_every": 3, **changes}
    first = make_run(**changes)
    second = make_run(id="pt.dyck.web.s0", stage="pt", parent=first.id, domain="web", keep=("attn", "norm"), **changes)
    return [first, second]


def outcome(study, runs):
    """What must not depend on interruptions: every checkpoint's weights, the swap, metrics without clock readings."""
    found = {}
    for run in runs:
        directory = study.run(run.id)
        assert directory.status()["state"] == "done"
        assert not directory.states.exists()
        assert not list(directory.path.rglob(".tmp-*"))
        for step in directory.steps():
            assert damage(directory.checkpoint(step)) is None
            found[run.id, step] = sha256_file(directory.checkpoint(step) / "model.safetensors")
        found[run.id, "metrics"] = [{k: row[k] for k in EXACT} for row in directory.read_metrics()]
    swap = study.run(runs[-1].id).path / "swap.json"
    return found | {"swap": swap.exists() and read_json(swap)}


def progress(study, runs):
    return sum(len(study.run(run.id).read_metrics()) for run in runs)


def kill(study, runs, chance):
    """Start training and kill it somewhere; returns (exit code, how, the stage it was in)."""
    how = chance.choice(["time", "step", "fsync", "fsync", "rename", "replace", "line"])
    trap = None if how in ("time", "step") else Trap(how, chance.randint(1, 24 if how == "fsync" else 6))
    begun = progress(study, runs)
    process = start(study, runs, trap)
    if how == "time":
        process.join(chance.random() * 0.6)
        process.kill()
    elif how == "step":
        target = begun + chance.randint(1, 6)
        while process.exitcode is None and progress(study, runs) < target:
            time.sleep(0.001)
        process.kill()
    process.join(120)
    stage = "pt" if study.run(runs[1].id).config.exists() else "ppt"
    return process.exitcode, how, stage


def test_killed_at_twenty_moments_it_ends_in_the_same_bits(study):
    """SIGKILL by time, by step, and before the n-th fsync, rename or half metrics line, in both stages."""
    runs = two_stages()
    undisturbed = StudyDir(study.path.with_name("undisturbed"))
    shutil.copytree(study.path, undisturbed.path)
    process = start(undisturbed, runs)
    process.join(300)
    assert process.exitcode == 0
    expected = outcome(undisturbed, runs)
    chance, kills, stages, rounds = random.Random(3), Counter(), Counter(), 0
    while kills.total() < 24:
        rounds += 1
        attempt = StudyDir(study.path.with_name(f"killed-{rounds}"))
        shutil.copytree(study.path, attempt.path)
        code = None
        while code != 0:
            code, how, stage = kill(attempt, runs, chance)
            assert code in (0, KILLED)
            if code == KILLED:
                kills[how] += 1
                stages[stage] += 1
        assert outcome(attempt, runs) == expected
    print(f"{kills.total()} kills in {rounds} round(s): {dict(kills)}, {dict(stages)}")
    assert min(stages["ppt"], stages["pt"]) >= 5
    assert kills["fsync"] + kills["rename"] + kills["replace"] >= 5
    assert kills["time"] + kills["step"] >= 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_saves_and_says_so(study, number):
    run = make_run(steps=200_000, checkpoint_every=200_000)
    process = start(study, [run])
    directory = study.run(run.id)
    while len(directory.read_metrics()) < 5:
        assert process.exitcode is None
        time.sleep(0.01)
    import os

    os.kill(process.pid, number)
    process.join(90)
    assert process.exitcode == 128 + number
    status = directory.status()
    assert status["state"] == "stopped"
    assert status["step"] == directory.read_metrics()[-1]["step"] == directory.state_steps()[-1]
    assert damage(directory.state(status["step"])) is None


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory):
    """A run of 24 steps, killed after step 16 with resumable states of steps 10 and 15; and its undisturbed outcome."""
    study, other = (StudyDir(tmp_path_factory.mktemp("stopped") / name) for name in ("study", "undisturbed"))
    run = make_run(steps=24, checkpoint_every=5)
    for directory in (study, other):
        write_tokens(directory.tokens / "dyck", SPEC, n_train=40, n_val=8, seq_len=32, seed=0)
    train(other, run)
    process = start(study, [run], Trap("line", 18))  # the line of step 17
    process.join(120)
    assert process.exitcode == KILLED
    assert study.run(run.id).state_steps() == [10, 15]
    return study, run, outcome(other, [run])


@pytest.fixture
def stopped(stopped_once, tmp_path):
    """A copy of it that may be hurt: study, run, expected outcome."""
    study, run, expected = stopped_once
    shutil.copytree(study.path, tmp_path / "study")
    return StudyDir(tmp_path / "study"), run, expected


def flip(path):
    """Change one byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("hurt", [flip, lambda p: p.write_bytes(b"{}"), lambda p: p.unlink()])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "MANIFEST.json"])
def test_a_damaged_state_is_named_and_the_one_before_is_used(stopped, caplog, monkeypatch, name, hurt):
    import nca_interp.train.loop as loop

    study, run, expected = stopped
    hurt(study.run(run.id).state(15) / name)
    begun = []
    monkeypatch.setattr(loop, "_run", lambda a, b, real=loop._run: (begun.append(a.step), real(a, b))[1])
    train(study, run)
    assert begun == [10]
    assert "state/step-00000015 is damaged: " in caplog.text
    assert name in caplog.text
    assert f"{run.id} continues from step 10" in caplog.text
    assert outcome(study, [run]) == expected


def test_with_every_state_damaged_it_starts_again(stopped, caplog):
    study, run, expected = stopped
    for step in (10, 15):
        flip(study.run(run.id).state(step) / "optimizer.safetensors")
    train(study, run)
    assert "continues from step 0" in caplog.text
    assert outcome(study, [run]) == expected


def test_a_damaged_checkpoint_of_a_finished_run_is_named(study):
    parent, child = two_stages(steps=4)
    train(study, parent)
    final = study.run(parent.id).checkpoint(4)
    flip(final / "model.safetensors")
    with pytest.raises(
        UserError,
        match=r"step-00000004: damaged checkpoint, model.safetensors was altered.*delete this folder, and ppt.dyck.s0 is",
    ):
        train(study, child)
    (final / "model.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match=r"model.safetensors has 4 bytes instead of .*; delete this folder"):
        train(study, parent)
    shutil.rmtree(final)
    assert train(study, parent)["state"] == "done"
    assert train(study, child)["state"] == "done"


def test_a_damaged_checkpoint_of_an_unfinished_run_is_named(stopped, caplog):
    study, run, _ = stopped
    (study.run(run.id).checkpoint(4) / "model.safetensors").write_bytes(b"half")
    train(study, run)
    assert "checkpoints/step-00000004 is damaged: model.safetensors has 4 bytes instead of" in caplog.text
    assert f"{run.id} continues from step 15" in caplog.text


def test_what_else_is_lost_of_an_unfinished_run_is_named(stopped, caplog):
    """A checkpoint's folder, metrics lines, and records that may be deleted where they are damaged."""
    study, run, expected = stopped
    directory = study.run(run.id)
    shutil.rmtree(directory.checkpoint(2))
    lines = directory.metrics.read_text().splitlines(keepends=True)
    directory.metrics.write_text("".join(lines[:5] + lines[7:]))
    for record in (directory.config, directory.status_file, directory.inputs):
        record.write_text("{")
        with pytest.raises(UserError, match=rf"{record.name}: not readable as JSON .*; delete this file, and the same"):
            train(study, run)
        record.unlink()
    train(study, run)
    assert "checkpoints/step-00000002 is damaged: the folder is missing; only a new run" in caplog.text
    assert "metrics.jsonl lacks 2 of the steps 0 to 15; only a new run" in caplog.text
    assert directory.steps() == [step for step in run.config.checkpoint_steps() if step != 2]


def test_asked_states_stay_and_others_go(study):
    run = make_run(steps=12, checkpoint_every=5, state_steps=(3, 12))
    train(study, run)
    directory = study.run(run.id)
    assert directory.state_steps() == [3, 12]
    assert all(damage(directory.state(step)) is None for step in (3, 12))
    with pytest.raises(ValueError, match=r"state_steps: 13; legal: 1 to 12"):
        type(run.config)(**run.config.model_dump() | {"state_steps": (13,)})


def test_a_second_process_leaves_with_a_clear_message(study):
    run = make_run(steps=2000)
    process = start(study, [run])
    directory = study.run(run.id)
    while not directory.read_metrics():
        assert process.exitcode is None
        time.sleep(0.01)
    assert directory.is_live()
    with pytest.raises(Busy, match=rf"{run.id}: process {process.pid} on .* is training this run; wait for it"):
        train(study, run)
    process.kill()
    process.join()
    assert not directory.is_live()
    assert directory.status()["state"] == "running"
    with locked(directory):
        assert directory.is_live()


def test_tokens_changed_after_the_run_began_are_refused(stopped):
    study, run, expected = stopped
    tokens = study.path / run.tokens
    original = tokens.with_name("original")
    tokens.rename(original)
    write_tokens(tokens, SPEC, n_train=40, n_val=8, seq_len=32, seed=1)
    with pytest.raises(UserError, match=r"changed after it began:\n  tokens/dyck/train.bin: SHA-256 then \w{12}, now"):
        train(study, run)
    shutil.rmtree(tokens)
    original.rename(tokens)
    train(study, run)
    assert outcome(study, [run]) == expected


def test_a_parent_changed_after_the_run_began_is_refused(study):
    parent, child = two_stages(steps=4)
    train(study, parent)
    train(study, child)
    directory = study.run(child.id)
    shutil.rmtree(directory.checkpoint(4))
    write_json(
        directory.inputs,
        read_json(directory.inputs) | {"runs/ppt.dyck.s0/checkpoints/step-00000004/model.safetensors": "0" * 64},
    )
    with pytest.raises(UserError, match=r"step-00000004/model.safetensors: SHA-256 then 000000000000, now"):
        train(study, child)


def test_a_configuration_of_an_earlier_version_is_completed_with_defaults(stopped):
    study, run, expected = stopped
    path = study.run(run.id).config
    saved = read_json(path)
    del saved["config"]["state_steps"]
    write_json(path, saved)
    train(study, run)
    assert outcome(study, [run]) == expected


def test_a_clock_that_jumps_changes_nothing(stopped, monkeypatch):
    study, run, expected = stopped
    chance = random.Random(0)
    monkeypatch.setattr(time, "time", lambda: chance.choice([0.0, 4e9, -1e6]))
    train(study, run)
    monkeypatch.undo()
    assert outcome(study, [run]) == expected
    rates = [row["tokens_per_second"] for row in study.run(run.id).read_metrics()[1:]]
    assert all(rate > 0 for rate in rates)


def test_a_real_file_system_that_is_full_loses_nothing(study):
    """A tmpfs of 700 kB, too small for the run; then enlarged."""
    run = make_run(steps=24, checkpoint_every=3)
    train(study, run)
    expected = outcome(study, [run])
    small = study.path.with_name("small")
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", small], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small file system")
    try:
        full = StudyDir(small / "study")
        shutil.copytree(study.tokens, full.tokens)
        with pytest.raises(RunFailed, match=r"cannot write .*; everything written before is intact"):
            train(full, run)
        directory = full.run(run.id)
        kept = directory.steps()
        assert kept
        assert all(damage(directory.checkpoint(step)) is None for step in kept)
        assert not list(directory.path.rglob(".tmp-*"))
        subprocess.run(["mount", "-o", "remount,size=50m", small], check=True)
        train(full, run)
        assert outcome(full, [run]) == expected
        subprocess.run(["mount", "-o", "remount,ro", small], check=True)
        with pytest.raises(
            RunFailed, match=r"cannot write .*Read-only file system; everything written before is intact"
        ):
            train(full, make_run(id="another"))
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.parametrize("nth", range(1, 30, 4))
def test_a_full_disk_at_any_write_loses_nothing(study, monkeypatch, nth):
    import errno
    import os

    run = make_run(steps=12, checkpoint_every=5)
    calls, real = [], os.fsync

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) >= nth:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        RunFailed, match=r"cannot write .*: No space left on device.*; everything written before is intact"
    ):
        train(study, run)
    monkeypatch.undo()
    directory = study.run(run.id)
    assert not list(directory.path.rglob(".tmp-*"))
    assert all(damage(directory.checkpoint(s)) is None for s in directory.steps())
    assert train(study, run)["state"] == "done"
    assert [row["step"] for row in directory.read_metrics()] == list(range(13))
