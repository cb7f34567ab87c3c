"""Runs that graft: what they start from, what they record, what they refuse."""

from __future__ import annotations

import json

import pytest
import torch

from nca_interp.base import RunFailed, UserError
from nca_interp.graft import Graft, HeadFile
from nca_interp.train.loop import train
from nca_interp.train.setup import initial_model
from tests.train.conftest import make_run


@pytest.fixture
def parent(study):
    run = make_run(steps=3)
    train(study, run)
    return run


def child(parent, graft, name="arm", **more):
    return make_run(
        id=f"pt.{name}.web.s0", stage="pt", regime=name, domain="web", parent=parent.id, graft=graft, steps=2, **more
    )


def weights(study, run):
    return dict(initial_model(study, run, 16).model.named_parameters())


def equal(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_heads_of_a_file_are_those_of_the_list(study, parent):
    listed, filed = Graft(heads="0.1,1.0"), Graft(heads=HeadFile(file="heads/found.json"))
    run = child(parent, filed)
    with pytest.raises(UserError, match=r"heads/found.json: no such file"):
        train(study, run)
    file = study.path / "heads" / "found.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"heads": [[0, 1], [1, 0]], "rule": "by hand"}))
    assert equal(weights(study, run), weights(study, child(parent, listed)))
    train(study, run)
    record = json.loads((study.run(run.id).path / "swap.json").read_text())
    assert record["heads"] == [[0, 1], [1, 0]]
    assert record["graft_words"] == "heads heads/found.json replaced by initial weights"
    assert record["heads_disjoint"] is True
    assert "heads/found.json" in json.loads(study.run(run.id).inputs.read_text())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"heads": []}, "it names no head"),
        ({"heads": [[0, 1], [0, 1]]}, "one stands there twice"),
        ({"heads": [[2, 0]]}, "heads: 2.0; legal: layers 0 to 1"),
        ({"heads": [[0, 2]]}, "heads: 0.2; legal"),
        ({"heads": [[0]]}, r"heads: \[0\]; legal: \[layer, head\]"),
        ({"heads": ["0.1"]}, "legal: .layer, head."),
        ({"heads": [[0, True]]}, "legal: .layer, head."),
        ({"head": []}, "heads is missing"),
        ([], "a JSON object is expected"),
    ],
)
def test_a_file_of_heads_that_makes_no_sense_is_named(study, parent, content, message):
    (study.path / "h.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"h\.json.*{message}"):
        weights(study, child(parent, Graft(heads=HeadFile(file="h.json"))))


def test_a_random_set_is_of_the_heads_of_the_file_and_is_recorded(study, parent):
    (study.path / "h.json").write_text(json.dumps({"heads": [[1, 0]]}))
    run = child(parent, Graft(heads=HeadFile(file="h.json"), matched=0))
    assert equal(weights(study, run), weights(study, child(parent, Graft(heads="1.1"))))
    train(study, run)
    record = json.loads((study.run(run.id).path / "swap.json").read_text())
    assert (record["heads"], record["heads_disjoint"]) == ([[1, 1]], True)
    (study.path / "h.json").write_text(json.dumps({"heads": [[1, 0], [1, 1]]}))
    with pytest.raises(UserError, match="no other set"):
        weights(study, child(parent, Graft(heads=HeadFile(file="h.json"), matched=0)))


def test_a_donor_is_another_run_and_its_weights_are_remembered(study, parent):
    giver = make_run(id="ppt.other.s0", steps=2, lr=1e-2)
    graft = Graft(parts=("attn",), instead="donor", donor="other")
    run = child(parent, graft, donor=giver.id)
    with pytest.raises(RunFailed, match="its donor run ppt.other.s0 is not finished"):
        train(study, run)
    train(study, giver)
    found = weights(study, run)
    given, own = (weights(study, child(one, Graft())) for one in (giver, parent))
    for name, tensor in found.items():
        if "embed" not in name and "lm_head" not in name:
            assert torch.equal(tensor, (given if "self_attn" in name else own)[name]), name
    train(study, run)
    inputs = json.loads((study.run(run.id).path / "inputs.json").read_text())
    assert any("ppt.other.s0" in name for name in inputs)


def test_a_run_that_grafts_everything_away_is_scratch(study, parent):
    run, scratch = child(parent, Graft(parts=("attn", "mlp", "norm"))), child(parent, Graft(), "scratch")
    scratch = scratch.model_copy(update={"parent": None})
    for one in (run, scratch):
        train(study, one)
    ends = [[row.get("val_loss") for row in study.run(one.id).read_metrics()] for one in (run, scratch)]
    assert ends[0] == ends[1]
