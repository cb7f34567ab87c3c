"""Runs that start from a checkpoint of any family: full transfer, scratch and arms, resumed in the same bits, saved as the family's."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file

from nca_interp.base import UserError
from nca_interp.config import MODULES
from nca_interp.graft import Graft
from nca_interp.model.checkpoint import load_model, read_provenance
from nca_interp.model.llama import build
from nca_interp.model.parent import open_parent, parent_of
from nca_interp.model.roles import kinds_of
from nca_interp.model.source import Source
from nca_interp.store import read_json
from nca_interp.swap_policy import SwapPolicy
from nca_interp.train import loop as loops
from nca_interp.train.loop import Stopped, train
from tests.model.families import saved

from .conftest import make_run

FOREIGN = ("llama-gqa", "neox", "gpt2", "qwen2", "qwen3")


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    """By family, a checkpoint directory."""
    folder = tmp_path_factory.mktemp("parents")
    return {family: saved(family, folder / family) for family in ("llama", *FOREIGN)}


def run_of(place, name="web", **changes):
    """A short run of language from a checkpoint; `checkpoint=None`: scratch of its architecture."""
    model = parent_of(str(place)).model.model_copy(update={"n_ctx": 32})
    given = {"checkpoint": str(place), "steps": 4, "eval_every": 2, "checkpoint_every": 2, **changes}
    return make_run(id=f"pt.x.{name}.s0", stage="pt", domain="web", model=model, **given)


def parameters(study, run, step=None):
    return dict(load_model(study.run(run.id).checkpoint(run.config.steps if step is None else step)).named_parameters())


@pytest.mark.parametrize("family", ["llama", *FOREIGN])
def test_keeping_everything_is_the_parent_and_nothing_is_scratch_to_the_last_step(study, parents, family):
    place = parents[family]
    full, none, scratch = (
        run_of(place, "full"),
        run_of(place, "none", keep=()),
        run_of(place, "scratch", checkpoint=None),
    )
    for run in (full, none, scratch):
        train(study, run)
    a, b = (parameters(study, run) for run in (none, scratch))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    rows = [[{k: v for k, v in row.items() if k not in ("tokens_per_second", "loader_share")} for row in study.run(r.id).read_metrics()] for r in (none, scratch)]  # fmt: skip
    assert rows[0] == rows[1]
    start, old = parameters(study, full, 0), dict(open_parent(str(place)).named_parameters())
    kinds = kinds_of(load_model(study.run(full.id).checkpoint(0)))
    assert all(torch.equal(start[name], old[name]) for name in start if kinds[name] != "embed")
    initial = parameters(study, scratch, 0)
    assert all(torch.equal(start[name], initial[name]) for name in start if kinds[name] == "embed")
    end = parameters(study, full)
    assert all(not torch.equal(start[name], end[name]) for name in start), "every tensor learns"


@pytest.mark.parametrize("family", ["neox", "gpt2", "qwen3"])
def test_what_it_saves_is_a_checkpoint_of_its_family_and_says_how_it_was_computed(study, parents, family):
    from transformers import AutoConfig, AutoModelForCausalLM

    run = run_of(parents[family])
    train(study, run)
    last = study.run(run.id).checkpoint(run.config.steps)
    model = AutoModelForCausalLM.from_pretrained(last)
    theirs = AutoConfig.from_pretrained(parents[family])
    assert type(model.config) is type(theirs)
    assert model.config.num_hidden_layers == theirs.num_hidden_layers
    assert read_provenance(last)["execution"]["forward"] == "transformers"
    # the loss that training wrote is that of the model as anybody opens it
    from nca_interp.data.tokens import TokenFile

    rows = torch.from_numpy(TokenFile.open(study.path / run.tokens).val.astype("int64"))
    with torch.no_grad():
        logits = model(input_ids=rows[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()).item()
    assert study.run(run.id).read_metrics()[-1]["val_loss"] == pytest.approx(loss, rel=1e-5)
    assert parent_of(str(last)).model.architecture.model_type == run.model.architecture.model_type


@pytest.mark.parametrize("family", ["gpt2", "neox"])
@pytest.mark.parametrize("policy", [SwapPolicy(), SwapPolicy(freeze_body=2, embed="match_rms")])
def test_stopped_and_started_again_it_ends_in_the_same_bits(study, parents, family, policy, monkeypatch):
    whole, stopped = (run_of(parents[family], name, swap=policy) for name in ("whole", "stopped"))
    train(study, whole)
    with monkeypatch.context() as m:
        m.setattr(loops, "_agreed_signal", lambda loop, received: 15 if loop.step == 3 else 0)
        with pytest.raises(Stopped):
            train(study, stopped)
    train(study, stopped)
    a, b = (load_file(study.run(run.id).checkpoint(4) / "model.safetensors") for run in (whole, stopped))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_checkpoint_that_was_changed_after_the_run_began_is_refused(study, parents, tmp_path, monkeypatch):
    place = shutil.copytree(parents["gpt2"], tmp_path / "copy")
    run = run_of(place)
    with monkeypatch.context() as m:
        m.setattr(loops, "_agreed_signal", lambda loop, received: 15 if loop.step == 1 else 0)
        with pytest.raises(Stopped):
            train(study, run)
    assert read_json(study.run(run.id).path / "swap.json")["parent"] == str(place)
    saved("gpt2", place, seed=1)
    with pytest.raises(UserError, match=r"files that this run depends on were changed"):
        train(study, run)


def test_one_of_our_own_checkpoints_is_our_own_llama(study):
    """Trained here, it comes back as the project's own shape: fast pass, and scratch with the bits that scratch always had."""
    ours = make_run(steps=4)
    train(study, ours)
    last = study.run(ours.id).checkpoint(4)
    found = parent_of(str(last))
    assert found.model.architecture is None
    assert found.model.model_copy(update={"embed_std": ours.model.embed_std}) == ours.model
    run = run_of(last, keep=())
    train(study, run)
    scratch = build(ours.model, 16, 0, "pt")
    start = parameters(study, run, 0)
    assert all(torch.equal(p, start[name]) for name, p in scratch.named_parameters())
    assert read_provenance(study.run(run.id).checkpoint(4))["execution"]["forward"] == "fast"
    assert Source(last).sha256()


@pytest.mark.parametrize("keep", [("attn",), ("mlp", "norm")])
def test_a_graft_and_the_field_keep_say_the_same(study, parents, keep):
    one = run_of(parents["gpt2"], "keep", keep=keep)
    other = run_of(parents["gpt2"], "graft", keep=MODULES, graft=Graft(mode="keep", parts=("embed", *keep)))
    for run in (one, other):
        train(study, run)
    a, b = (parameters(study, run) for run in (one, other))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_rows_are_kept_only_of_the_same_tokens(study, parents):
    with pytest.raises(UserError, match="has no tokenizer, so it is not known which tokens its rows are of"):
        train(study, run_of(parents["gpt2"], swap=SwapPolicy(embed="keep")))


def test_a_synthetic_stage_of_the_same_architecture_stands_beside_it_and_may_give_to_a_graft(study, parents):
    """A GPT-2 is pre-pre-trained here, swapped as any parent, and its attention put into the checkpoint's body."""
    model = run_of(parents["gpt2"]).model
    ppt = make_run(steps=4, model=model)
    train(study, ppt)
    child = make_run(id="pt.dyck.web.s0", stage="pt", domain="web", model=model, parent=ppt.id, steps=4)
    donor = run_of(parents["gpt2"], "donor", donor=ppt.id, graft=Graft(parts=("attn",), instead="donor", donor="dyck"))
    for run in (child, donor):
        train(study, run)
    before, after, mixed = parameters(study, ppt), parameters(study, child, 0), parameters(study, donor, 0)
    theirs = dict(open_parent(str(parents["gpt2"])).named_parameters())
    kinds = kinds_of(load_model(study.run(ppt.id).checkpoint(4)))
    for name, kind in kinds.items():
        if kind != "embed":
            assert torch.equal(after[name], before[name]), name
            assert torch.equal(mixed[name], (before if kind == "attn" else theirs)[name]), name
