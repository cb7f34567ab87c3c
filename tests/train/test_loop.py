"""The loop is exact: it does not matter how a run is split, interrupted or resumed."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nca_interp.base import RunFailed, UserError, digest
from nca_interp.model.checkpoint import load_model
from nca_interp.model.llama import kind_of
from nca_interp.model.loss import IGNORE
from nca_interp.store import damage, read_json
from nca_interp.train.batches import to_tensors
from nca_interp.train.loop import Diverged, train
from tests.train.conftest import make_run


def test_a_run_leaves_what_it_promises(study):
    run = make_run()
    status = train(study, run)
    directory = study.run(run.id)
    assert status["state"] == "done"
    assert directory.steps() == [0, 1, 2, 4, 5, 10, 12]
    assert all(damage(directory.checkpoint(s)) is None for s in directory.steps())
    assert not directory.states.exists()
    rows = directory.read_metrics()
    assert [r["step"] for r in rows] == list(range(13))
    assert rows[0]["val_loss"] == pytest.approx(np.log(16), abs=0.02)
    assert rows[-1]["val_loss"] < rows[0]["val_loss"] - 0.1
    assert [r["step"] for r in rows if r["val_loss"] is not None] == [0, 4, 8, 12]
    assert rows[-1]["tokens"] == 12 * 8 * 32
    provenance = read_json(directory.checkpoint(12) / "provenance.json")
    assert (provenance["run"], provenance["step"], provenance["tokens_dir"]) == (run.id, 12, "tokens/dyck")


def test_a_finished_run_is_recognised(study):
    run = make_run()
    train(study, run)
    before = (study.run(run.id).checkpoint(12) / "model.safetensors").stat().st_mtime_ns
    begin = time.perf_counter()
    assert train(study, run)["state"] == "done"
    assert time.perf_counter() - begin < 0.5
    assert (study.run(run.id).checkpoint(12) / "model.safetensors").stat().st_mtime_ns == before


def test_another_configuration_is_refused(study):
    train(study, make_run())
    with pytest.raises(
        UserError, match=r"another configuration:\n  config.lr: there 0.003, asked for 0.0001\nnothing was changed"
    ):
        train(study, make_run(lr=1e-4))


def test_a_loss_that_becomes_nan_is_reported_as_diverged(study):
    # a decay of lr x weight_decay = 10 multiplies every matrix by -9 a step: past fp32 after some 40 steps
    run = make_run(lr=10.0, weight_decay=1.0, clip=None, warmup=0.0, steps=100, checkpoints="ends", eval_every=100)
    with pytest.raises(Diverged, match=r"loss .*gradient norm .* at step"):
        train(study, run)
    assert study.run(run.id).status()["state"] == "diverged"


def test_swap_carries_the_body_and_logs_it(study):
    parent = make_run()
    train(study, parent)
    child = make_run(id="pt.dyck.web.s0", stage="pt", parent=parent.id, domain="web", keep=("attn", "norm"))
    train(study, child)
    before = dict(load_model(study.run(parent.id).checkpoint(12)).named_parameters())
    after = dict(load_model(study.run(child.id).checkpoint(0)).named_parameters())
    for name, value in after.items():
        assert torch.equal(value, before[name]) == (kind_of(name) in ("attn", "norm")), name
    log = json.loads((study.run(child.id).path / "swap.json").read_text())["tensors"]
    assert {row["kind"] for row in log if row["action"] == "carried over"} == {"attn", "norm"}
    with pytest.raises(RunFailed, match="parent run nowhere is not finished"):
        train(study, make_run(id="x", stage="pt", parent="nowhere"))


def test_targets_follow_the_mask_rule():
    rows = np.arange(12).reshape(2, 6)
    x, y = to_tensors(rows, 0, None)
    assert x.tolist() == [[0, 1, 2, 3, 4], [6, 7, 8, 9, 10]]
    assert y.tolist() == [[1, 2, 3, 4, 5], [7, 8, 9, 10, 11]]
    assert to_tensors(rows, 3, None)[1].tolist() == [[IGNORE, IGNORE, 3, 4, 5], [IGNORE, IGNORE, 9, 10, 11]]
    mask = np.array([[0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 1]])
    assert to_tensors(rows, 0, mask)[1].tolist() == [[IGNORE] * 3 + [4, 5], [IGNORE] * 4 + [11]]


def test_rows_of_another_length_are_refused(study):
    run = make_run()
    long = run.model_copy(update={"model": run.model.model_copy(update={"n_ctx": 64})})
    with pytest.raises(UserError, match="rows of 32 tokens do not fit n_ctx 64"):
        train(study, long)


def test_a_corpus_shorter_than_a_batch_is_refused(study):
    with pytest.raises(UserError, match=r"40 training rows of 32 tokens are fewer than one batch \(batch_size 64\)"):
        train(study, make_run(batch_size=64))


def test_a_full_disk_ends_the_run_and_keeps_the_last_checkpoint(study, monkeypatch):
    """safetensors reports a full disk with an error of its own; the run fails with one sentence, all before is whole."""
    from safetensors import SafetensorError

    from nca_interp.model import checkpoint

    run = make_run()
    save, calls = checkpoint.commit_dir, []

    def full(final, write):
        calls.append(final)
        if len(calls) == 4:

            def no_space(temporary):
                (temporary / "model.safetensors").write_bytes(b"half")
                raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

            return save(final, no_space)
        return save(final, write)

    monkeypatch.setattr(checkpoint, "commit_dir", full)
    with pytest.raises(RunFailed, match=r"cannot write .*No space left on device.*everything written before is intact"):
        train(study, run)
    directory = study.run(run.id)
    assert directory.status()["state"] == "failed"
    assert directory.steps() == [0, 1, 2]
    assert all(damage(directory.checkpoint(s)) is None for s in directory.steps())
    assert not list(directory.path.rglob(".tmp-*"))
    monkeypatch.undo()
    train(study, run)
    assert directory.steps() == [0, 1, 2, 4, 5, 10, 12]


def test_rows_beyond_the_vocabulary_are_allocated(study):
    train(study, make_run(vocab_rows=100))
    assert load_model(study.run("ppt.dyck.s0").checkpoint(12)).config.vocab_size == 100


def test_norm_gains_are_decayed_only_when_asked(study):
    gains = []
    for name, decay in (("a", False), ("b", True)):
        train(study, make_run(id=name, decay_norms=decay, weight_decay=0.5, lr=1e-6, warmup=0.0, schedule="constant"))
        weights = load_file(study.run(name).checkpoint(12) / "model.safetensors")
        gains.append(weights["model.norm.weight"].double().mean().item())
    assert gains[1] - gains[0] == pytest.approx((1 - 1e-6 * 0.5) ** 12 - 1, rel=0.05)


def test_the_first_frame_is_a_target_only_when_asked(tmp_path):
    from nca_interp.data.specs import NcaSpec
    from nca_interp.data.tokens import write_tokens
    from nca_interp.store import StudyDir

    study = StudyDir(tmp_path / "nca")
    spec = NcaSpec(grid=6, n_states=2, band=None)
    write_tokens(study.path / "tokens/nca", spec, n_train=16, n_val=8, seq_len=32, seed=0)
    losses = {}
    for name, asked in (("a", False), ("b", True)):
        run = make_run(
            id=name, tokens="tokens/nca", source=spec.model_dump(mode="json"), steps=1, first_frame_targets=asked
        )
        train(study, run)
        model = load_model(study.run(name).checkpoint(0))
        rows = torch.tensor(np.fromfile(study.path / "tokens/nca/val.bin", "<u2").reshape(8, 33).astype(np.int64))
        nll = torch.nn.functional.cross_entropy(
            model(rows[:, :-1]).logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none"
        ).reshape(8, 32)
        first = 1 if asked else spec.tokens_per_frame
        losses[name] = nll[:, first - 1 :].mean().item()
        assert study.run(name).read_metrics()[0]["val_loss"] == pytest.approx(losses[name], rel=1e-5)
    assert losses["a"] != pytest.approx(losses["b"], rel=1e-6)


def test_row_losses_of_the_last_validation_add_up_to_it_and_stand_in_the_checkpoint(study):
    run = make_run(id="pt.dyck.web.s0", stage="pt", domain="web")
    train(study, run)
    directory = study.run(run.id)
    kept = json.loads(directory.validation.read_text())
    stated = kept.pop("sha256")
    assert digest(kept) == stated
    assert (kept["step"], len(kept["nll"]), sum(kept["targets"])) == (12, 8, 8 * 32)
    last = [row["val_loss"] for row in directory.read_metrics() if row["val_loss"] is not None][-1]
    assert sum(kept["nll"]) / sum(kept["targets"]) == pytest.approx(last, rel=1e-6)
    assert np.std(kept["nll"]) > 0
    provenance = [json.loads((directory.checkpoint(s) / "provenance.json").read_text()) for s in (0, 12)]
    assert [p["validation_sha256"] for p in provenance] == [None, stated]
    assert provenance[0]["plan_sha256"] is None  # this study began without a plan
    train(study, make_run())
    assert not study.run("ppt.dyck.s0").validation.exists()
