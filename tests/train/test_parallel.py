"""One result, however the batch is split: micro-batches, processes, shards, and a size found by trying."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nca_interp import machine
from nca_interp.base import RunFailed, UserError
from nca_interp.data.tokens import write_tokens
from nca_interp.model import fast
from nca_interp.store import StudyDir, read_json, sha256_file
from nca_interp.train.compiling import should_compile
from nca_interp.train.loop import train
from nca_interp.train.validate import validate
from tests.train.conftest import SPEC, make_run, spawn

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
STEPS = 50


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """One study with the same run of 50 steps on one process, with 2 and 4 micro-batches, on two processes, and sharded."""
    study = StudyDir(tmp_path_factory.mktemp("split") / "study")
    write_tokens(study.tokens / "dyck", SPEC, n_train=40, n_val=7, seq_len=32, seed=0)
    common = {"steps": STEPS, "checkpoints": "ends", "eval_every": 10, "checkpoint_every": 100}
    one = [make_run(id="one", **common)]
    one += [make_run(id=f"accumulate-{8 // m}", micro_batch=m, **common) for m in (4, 2)]
    two = [make_run(id="two", **common), make_run(id="two-accumulate", micro_batch=2, **common)]
    sharded = [
        make_run(id="sharded", **common, state_steps=(20,)),
        make_run(id="sharded-checkpointing", micro_batch=2, gradient_checkpointing=True, **common),
    ]
    launches = ((one, [], {}), (two, TORCHRUN, {}), (sharded, TORCHRUN, {"ACCELERATE_USE_FSDP": "true"}))
    for runs, launcher, environment in launches:
        process = spawn(study, runs, *launcher, **environment)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    return study


SPLITS = ["accumulate-2", "accumulate-4", "two", "two-accumulate", "sharded", "sharded-checkpointing"]


@pytest.mark.parametrize("name", SPLITS)
def test_the_same_global_batch_gives_the_same_curve(split, name):
    a, b = (split.run(i).read_metrics() for i in ("one", name))
    assert len(a) == len(b) == STEPS + 1
    np.testing.assert_allclose([r["loss"] for r in a], [r["loss"] for r in b], rtol=1e-5)
    validated = [[r["val_loss"] for r in rows if r["val_loss"] is not None] for rows in (a, b)]
    np.testing.assert_allclose(*validated, rtol=1e-5)
    for key in ("grad_norm", "grad_norm_attn", "grad_norm_embed", "grad_norm_norm"):
        np.testing.assert_allclose([r[key] for r in a[1:]], [r[key] for r in b[1:]], rtol=1e-3)


@pytest.mark.parametrize("name", SPLITS)
def test_every_split_ends_in_the_same_plain_directory(split, name):
    from transformers import AutoModelForCausalLM

    final = [split.run(i).checkpoint(STEPS) for i in ("one", name)]
    weights = [load_file(path / "model.safetensors") for path in final]
    assert weights[0].keys() == weights[1].keys()
    for key, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][key], rtol=1e-3, atol=2e-5)
    assert read_json(final[1] / "config.json")["architectures"] == ["LlamaForCausalLM"]
    assert type(AutoModelForCausalLM.from_pretrained(final[1], local_files_only=True)).__name__ == "LlamaForCausalLM"
    execution = read_json(final[1] / "provenance.json")["execution"]
    assert (execution["processes"], execution["sharded"]) == (1 if "accumulate-" in name else 2, "sharded" in name)


def test_a_sharded_state_is_continued_by_one_process(split):
    run = make_run(
        id="continued", steps=STEPS, checkpoints="ends", eval_every=10, checkpoint_every=100, state_steps=(20,)
    )
    directory, source = split.run(run.id), split.run("sharded")
    directory.states.mkdir(parents=True)
    shutil.copytree(source.state(20), directory.state(20))
    directory.metrics.write_text("".join(line for line in source.metrics.read_text().splitlines(True)[:21]))
    train(split, run)
    a, b = (split.run(i).read_metrics() for i in ("one", "continued"))
    np.testing.assert_allclose([r["loss"] for r in a], [r["loss"] for r in b], rtol=1e-5)


def test_the_command_line_under_torchrun_is_one_run_on_two_processes(tmp_path, monkeypatch):
    options = [
        "--regime",
        "scratch",
        "--domain",
        "web",
        "--seed",
        "0",
        "--set",
        "pt.steps=2",
        "--shard",
        "--out",
        str(tmp_path),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*TORCHRUN, "-m", "nca_interp", "train", "smoke", *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    directory = StudyDir(tmp_path).run("pt.scratch.web.s0")
    assert directory.status()["state"] == "done"
    execution = read_json(directory.checkpoint(2) / "provenance.json")["execution"]
    assert (execution["processes"], execution["sharded"]) == (2, True)
    assert [row["step"] for row in directory.read_metrics()] == [0, 1, 2]
    assert done.stderr.count("training runs 0/1; 0 of 1 runs done") == 1  # the first process speaks for both
    assert done.stdout.count("trained: ") == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    again = shlex.split(machine.launched_again(["train", "smoke", *options]))
    assert again[-len(options) - 2 :] == ["train", "smoke", *options]
    assert "--nproc_per_node 2 -m nca_interp train" in " ".join(again)


def out_of_memory_above(monkeypatch, rows):
    real = fast.linear_nll_sum

    def limited(hidden, weight, targets):
        if len(hidden) > rows * 32:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: 9 GB")
        return real(hidden, weight, targets)

    monkeypatch.setattr(fast, "linear_nll_sum", limited)


def test_the_micro_batch_that_fits_is_found_and_changes_nothing(study, monkeypatch):
    fixed, found = make_run(id="fixed", micro_batch=2), make_run(id="found", micro_batch="auto")
    train(study, fixed)
    out_of_memory_above(monkeypatch, 3)
    train(study, found)
    assert read_json(study.run("found").micro_batch) == {"micro_batch": 2}
    finals = [study.run(i).checkpoint(12) for i in ("fixed", "found")]
    assert len({sha256_file(path / "model.safetensors") for path in finals}) == 1
    assert read_json(finals[1] / "provenance.json")["execution"]["micro_batch"] == 2


def test_a_batch_that_fits_nowhere_ends_the_run(study, monkeypatch):
    out_of_memory_above(monkeypatch, 0)
    with pytest.raises(RunFailed, match="not even one sequence fits into memory; gradient_checkpointing=true"):
        train(study, make_run(micro_batch="auto"))


def test_an_error_that_is_not_memory_is_not_swallowed(study, monkeypatch):
    monkeypatch.setattr(fast, "linear_nll_sum", lambda *a: (_ for _ in ()).throw(RuntimeError("planted")))
    with pytest.raises(RuntimeError, match="planted"):
        train(study, make_run(micro_batch="auto"))


def test_every_regime_is_validated_on_the_same_rows(study, monkeypatch):
    seen = {}

    def recorded(loop):
        rows, model = seen.setdefault(loop.config.id, []), loop.raw_model

        class Spy:
            def __call__(self, x, y):
                rows.extend(map(tuple, x.tolist()))
                return model(x, y)

        loop.raw_model = Spy()
        try:
            return validate(loop)
        finally:
            loop.raw_model = model

    monkeypatch.setattr("nca_interp.train.loop.validate", recorded)
    for name, changes in {"a": {}, "b": {"regime": "other", "micro_batch": 4}}.items():
        train(study, make_run(id=name, steps=4, **changes))
    assert seen["a"] == seen["b"]
    assert len(set(seen["a"])) == 8  # all validation rows, at step 0 and 4
    assert len(seen["a"]) == 16


def test_sharding_one_process_is_refused(study, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match=r"--shard: there is one process; start several: .*torchrun"):
        train(study, make_run())


def test_half_the_micro_batch_is_the_same_run_and_stays_for_it(study, caplog):
    """What is asked of a run whose process ran out of memory: the bits of one that was configured so, also where it goes on later."""
    fixed, asked = make_run(id="fixed", micro_batch=2), make_run(id="asked", micro_batch=4)
    train(study, fixed)
    train(study, asked, smaller=True)
    assert "goes on with a micro-batch of 2" in caplog.text
    assert read_json(study.run("asked").micro_batch) == {"micro_batch": 2}
    weights = [study.run(name).checkpoint(12) / "model.safetensors" for name in ("fixed", "asked")]
    assert sha256_file(weights[0]) == sha256_file(weights[1])
    execution = read_json(study.run("asked").checkpoint(12) / "provenance.json")["execution"]
    assert execution["micro_batch"] == 2


@pytest.mark.parametrize("micro", [3, 5])
def test_a_split_that_does_not_come_out_even_is_refused(study, micro):
    run = make_run(batch_size=8)
    odd = run.model_copy(update={"config": run.config.model_copy(update={"micro_batch": micro})})
    with pytest.raises(UserError, match=f"micro_batch: {micro} does not divide 8"):
        train(study, odd)


def test_a_launcher_that_lost_its_processes_is_refused(monkeypatch):
    machine.refuse_lost_processes()
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(
        UserError, match=r"has started one.*ACCELERATE_USE_CPU=true torchrun --standalone --nproc_per_node 2"
    ):
        machine.refuse_lost_processes()
    monkeypatch.setenv("WORLD_SIZE", "2")
    machine.refuse_lost_processes()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_absent_device_is_refused_in_one_sentence(monkeypatch):
    with pytest.raises(UserError, match=r"--device cuda: there is no such device here.*legal here: auto, cpu"):
        machine.use_device("cuda")
    with pytest.raises(UserError, match=r"--device cdua: unknown; did you mean 'cuda'\?"):
        machine.use_device("cdua")


def test_compiling_falls_back_and_says_so(monkeypatch, caplog):
    assert not should_compile("off", 1e30, "cpu", "r")
    assert not should_compile("auto", 1e9, "cpu", "r")
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not should_compile("on", 1e9, "cpu", "pt.nca.web.s0")
    assert not should_compile("auto", 1e30, "cpu", "pt.nca.web.s0")
    assert "pt.nca.web.s0 is not compiled: no C++ compiler (no-such-compiler) is on the path" in caplog.text


def test_tensorboard_gets_every_step(study, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("NCA_INTERP_TRACK", "tensorboard")
    run = make_run()
    train(study, run)
    events = EventAccumulator(str(study.path / "tensorboard" / run.id))
    events.Reload()
    rows = study.run(run.id).read_metrics()[1:]
    for key in ("loss", "grad_norm_attn", "lr"):
        assert [e.step for e in events.Scalars(key)] == [r["step"] for r in rows]
        np.testing.assert_allclose([e.value for e in events.Scalars(key)], [r[key] for r in rows], rtol=1e-6)


def test_a_tracker_that_is_not_there_is_named(monkeypatch):
    from nca_interp.train.track import check

    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    with pytest.raises(UserError, match=r"--track trackio: .* install it with: pip install 'nca-interp\[trackio\]'"):
        check(["trackio"])
    with pytest.raises(UserError, match=r"--track tensorbord: unknown tracker; did you mean 'tensorboard'\?"):
        check(["tensorbord"])
