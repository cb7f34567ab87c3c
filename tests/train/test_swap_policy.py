"""A frozen body stays, bit for bit, as long as it should; arms of scratch and of a parent start as their policy says."""

from __future__ import annotations

import json

import pytest
import torch

from nca_interp.base import UserError
from nca_interp.model.checkpoint import load_model
from nca_interp.model.llama import build, kind_of
from nca_interp.store import read_json, sha256_file, write_json
from nca_interp.swap_policy import SwapPolicy
from nca_interp.train import loop as loops
from nca_interp.train.loop import Stopped, train

from .conftest import make_run

FROZEN = 5


@pytest.fixture
def parent(study):
    run = make_run()
    train(study, run)
    return run


def child(parent, policy, name="web", **changes):
    run = make_run(
        id=f"pt.dyck.{name}.s0", stage="pt", parent=parent and parent.id, domain="web", swap=policy, **changes
    )
    return run.model_copy(update={"model": policy.applied(run.model)})


def weights(study, run, step):
    return dict(load_model(study.run(run.id).checkpoint(step)).named_parameters())


def moved(a, b):
    """Kinds of tensors of which any, and all, differ."""
    kinds = {kind_of(name) for name in a}
    return {k: {not torch.equal(a[n], b[n]) for n in a if kind_of(n) == k} for k in kinds}


@pytest.mark.parametrize("more", [{}, {"weight_decay": 0.5, "decay_norms": True}])
def test_a_frozen_body_moves_at_the_step_after_and_not_before(study, parent, more):
    run = child(parent, SwapPolicy(freeze_body=FROZEN), checkpoint_every=1, **more)
    train(study, run)
    start = weights(study, run, 0)
    for step in range(1, FROZEN + 1):
        found = moved(start, weights(study, run, step))
        assert found == {"embed": {True}, "attn": {False}, "mlp": {False}, "norm": {False}}, step
    assert moved(start, weights(study, run, FROZEN + 1)) == {k: {True} for k in ("embed", "attn", "mlp", "norm")}


def test_its_first_update_is_that_of_a_fresh_optimiser(study, parent):
    """No moments were gathered while it was frozen: Adam's first step moves each weight by the learning rate."""
    run = child(parent, SwapPolicy(freeze_body=FROZEN), checkpoint_every=1, weight_decay=0.0, schedule="constant", warmup=0.0, clip=None)  # fmt: skip
    train(study, run)
    before, after = weights(study, run, FROZEN), weights(study, run, FROZEN + 1)
    name = "model.layers.0.mlp.up_proj.weight"
    assert (after[name] - before[name]).abs().median().item() == pytest.approx(run.config.lr, rel=1e-2)
    other = (after["lm_head.weight"] - before["lm_head.weight"]).abs().median().item()
    assert other != pytest.approx(run.config.lr, rel=1e-2)


@pytest.mark.parametrize("at", [3, FROZEN, FROZEN + 1])
def test_stopped_before_at_and_after_the_end_of_the_freeze_it_ends_in_the_same_bits(study, parent, at, monkeypatch):
    whole, stopped = (child(parent, SwapPolicy(freeze_body=FROZEN), name) for name in ("whole", "stopped"))
    train(study, whole)
    with monkeypatch.context() as m:
        m.setattr(loops, "_agreed_signal", lambda loop, received: 15 if loop.step == at else 0)
        with pytest.raises(Stopped):
            train(study, stopped)
    moments = study.run(stopped.id).state(at) / "optimizer.safetensors"
    from safetensors.torch import load_file

    kept = {kind_of(key.rpartition("|")[0]) for key in load_file(moments)}
    assert kept == ({"embed"} if at <= FROZEN else {"embed", "attn", "mlp", "norm"})
    train(study, stopped)
    for step in (5, 10, 12):
        files = [study.run(run.id).checkpoint(step) / "model.safetensors" for run in (whole, stopped)]
        assert sha256_file(files[0]) == sha256_file(files[1])


def test_a_run_that_began_before_there_were_policies_goes_on(study, parent, monkeypatch):
    run = child(parent, SwapPolicy())
    with monkeypatch.context() as m:
        m.setattr(loops, "_agreed_signal", lambda loop, received: 15 if loop.step == 3 else 0)
        with pytest.raises(Stopped):
            train(study, run)
    saved = study.run(run.id).config
    write_json(saved, {k: v for k, v in read_json(saved).items() if k != "swap"})
    write_json(study.run(run.id).path / "swap.json", [])  # as it was written then
    assert train(study, run)["state"] == "done"
    with pytest.raises(UserError, match=r"begun with another configuration:\n.*swap.freeze_body: there 0, asked for 3"):
        train(study, child(parent, SwapPolicy(freeze_body=3)))


def test_scratch_takes_the_same_embedding_as_the_arm_of_a_parent(study, parent):
    policy = SwapPolicy(embed_std=1.0)
    scratch, nca = child(None, policy, "scratch"), child(parent, policy, "nca")
    for run in (scratch, nca):
        train(study, run)
    expected = dict(build(make_run().model.model_copy(update={"embed_std": 1.0}), 16, 0, "pt").named_parameters())
    assert moved(weights(study, scratch, 0), expected) == {k: {False} for k in ("embed", "attn", "mlp", "norm")}
    assert moved(weights(study, scratch, 0), weights(study, nca, 0))["embed"] == {False}


def test_swap_json_says_what_was_done_and_measures_both_sides(study, parent):
    policy = SwapPolicy(embed_std=1.0, body_scale="shrink_to_initial", freeze_body=2)
    nca, scratch = child(parent, policy, "nca"), child(None, SwapPolicy(embed_std=1.0), "scratch")
    for run in (nca, scratch):
        train(study, run)
    found = json.loads((study.run(nca.id).path / "swap.json").read_text())
    assert found["policy"] == policy.model_dump(mode="json")
    assert found["words"].startswith("embedding N(0, 1\u00b2), unembedding N(0, 1\u00b2), body shrunk")
    assert {row["action"] for row in found["tensors"]} == {
        "re-initialised (new)",
        "carried over, scaled to its initial norm",
    }
    rows = {
        side: {(r["quantity"], r["layer"]): r["value"] for r in found[side]["rows"]} for side in ("before", "after")
    }
    assert found["before"]["tokens"] == parent.tokens
    assert rows["after"]["resid_rms", 0] == pytest.approx(1.0, rel=0.1)
    assert rows["before"]["resid_rms", 0] < 0.1
    assert rows["after"]["token_share", 0] == pytest.approx(1.0)
    # all 8 validation rows are measured, so the loss is that of the first validation
    first = study.run(nca.id).read_metrics()[0]
    assert rows["after"]["loss", None] == pytest.approx(first["val_loss"], rel=1e-5)
    last = study.run(parent.id).read_metrics()[-1]
    assert rows["before"]["loss", None] == pytest.approx(last["val_loss"], rel=1e-5)
    other = read_json(study.run(scratch.id).path / "swap.json")
    assert (other["parent"], other["before"], other["tensors"]) == (None, None, [])
    assert [r["quantity"] for r in other["after"]["rows"]] == [r["quantity"] for r in found["after"]["rows"]]


def test_rows_of_one_vocabulary_are_kept_and_of_another_refused(study, parent):
    """Dyck on Dyck: the same token directory, so ids mean the same."""
    run = child(parent, SwapPolicy(embed="keep"))
    train(study, run)
    found = moved(weights(study, run, 0), weights(study, parent, 12))
    assert found == {k: {False} for k in ("embed", "attn", "mlp", "norm")}
    other = study.tokens / "other"
    import shutil

    shutil.copytree(study.tokens / "dyck", other)
    run = child(parent, SwapPolicy(embed="keep"), "other", tokens="tokens/other")
    with pytest.raises(
        UserError, match=r"pt.dyck.other.s0: swap.embed: keep: the vocabularies of dyck and other differ; legal"
    ):
        train(study, run)
