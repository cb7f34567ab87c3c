"""Arms whose heads a rule names: the plan decides the rule before they are trained, keeps why one is left out, and never decides twice."""

from __future__ import annotations

import json

import pytest
import torch

from nca_interp.analysis.collection.collection import Collection
from nca_interp.analysis.mediation.rule import Scores, chosen, rules_of
from nca_interp.arms import mediation_arms
from nca_interp.base import UserError
from nca_interp.cli.status import BoardReader
from nca_interp.config import Domain, ModelConfig, Regime, StageConfig, Study, paired_seeds
from nca_interp.data.controls.repeat import RepeatSpec
from nca_interp.data.specs import TextSpec, TokenizerSpec
from nca_interp.engine.jobs import execute, is_done
from nca_interp.engine.plan import make_plan
from nca_interp.head_rule import HeadRule
from nca_interp.model.checkpoint import load_model
from nca_interp.store import StudyDir

STAGE = StageConfig(steps=3, batch_size=2, lr=1e-3, eval_every=3, checkpoints="ends")
REPEAT = Regime(name="repeat", label="repeated tokens", source=RepeatSpec(n_symbols=16, period=(4, 12)), ft=False)
FOUND = HeadRule(probe="previous_token", k=2, otherwise="top")
NONE = HeadRule(probe="induction", k=1)


def study(*arms: Regime) -> Study:
    text = TextSpec(source="arithmetic:", tokenizer=TokenizerSpec(vocab_size=300), max_bytes=40_000)
    return Study(
        name="ruled", title="Rules", model=ModelConfig(n_layers=2, d_model=16, n_heads=4, d_mlp=24, n_ctx=48),
        regimes=(Regime(name="scratch", label="scratch", ft=False), REPEAT, *arms),
        domains=(Domain(name="web", label="sums", source=text),), seeds=paired_seeds(1), ppt=STAGE, pt=STAGE, val_rows=4,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[StudyDir, Study]:
    torch.set_num_threads(1)
    arms = (*mediation_arms(REPEAT, FOUND, 2), *mediation_arms(REPEAT, NONE, 1, ways=("without",)))
    asked, folder = study(*arms), StudyDir(tmp_path_factory.mktemp("ruled"))
    folder.claim(asked.model_dump(mode="json"), {})
    for job in make_plan(asked, "fp32", analyze=False).jobs:
        execute(folder.path, job, None)
    return folder, asked


def record(folder: StudyDir, rule: HeadRule) -> dict:
    return json.loads((folder.path / rule.file.replace("{parent}", "ppt.repeat.s0")).read_text())


def test_every_arm_waits_for_the_rule_and_all_share_one_pre_pre_training(trained):
    _, asked = trained
    jobs = {job.id: job for job in make_plan(asked, "fp32").jobs}
    assert jobs["head-rules:ppt.repeat.s0"].needs == ("train:ppt.repeat.s0",)
    arms = [job for job in jobs.values() if "-without-" in job.id or "-only-" in job.id]
    arms = [job for job in arms if job.kind == "train"]
    assert len(arms) == 2 * 3 + 2
    assert all("head-rules:ppt.repeat.s0" in job.needs and job.payload.parent == "ppt.repeat.s0" for job in arms)
    order = list(jobs)
    assert all(order.index("head-rules:ppt.repeat.s0") < order.index(job.id) for job in arms)


def test_the_record_says_heads_scores_level_and_weights(trained):
    folder, asked = trained
    said = record(folder, FOUND.model_copy(update={"sets": 2}))
    kind = said["kinds"]["previous_token"]
    scores = {(layer, head): v for layer, head, v in kind["scores"]}
    best = sorted(scores, key=lambda h: -scores[h])[:2]
    assert [tuple(h) for h in said["heads"]] == best
    assert len(scores) == 8
    assert kind["level"] >= kind["threshold"] == 0.3
    assert len(kind["maxima"]) == 5
    assert kind["below"] == kind["heads"] == said["heads"]
    assert "2 of 2 head(s) taken though not above the level" in said["sentence"]
    assert (said["checkpoint"] == Collection.open(folder.path).run("ppt.repeat.s0").trained and False) or said[
        "checkpoint"
    ]
    layers = sorted(layer for layer, _ in said["heads"])
    for one in said["random"]:
        assert sorted(layer for layer, _ in one) == layers
        assert sorted(one) != sorted(said["heads"])


def test_an_arm_replaces_the_heads_of_the_record_and_nothing_else(trained):
    folder, _ = trained
    heads = [tuple(h) for h in record(folder, FOUND.model_copy(update={"sets": 2}))["heads"]]
    before = load_model(folder.run("ppt.repeat.s0").checkpoint(3))
    scratch = load_model(folder.run("pt.scratch.web.s0").checkpoint(0))
    for way, replaced in (("without", lambda h: h in heads), ("only", lambda h: h not in heads)):
        after = load_model(folder.run(f"pt.repeat-{way}-previous-token.web.s0").checkpoint(0))
        for layer in range(2):
            for head in range(4):
                rows = slice(4 * head, 4 * head + 4)
                want = (scratch if replaced((layer, head)) else before).model.layers[layer].self_attn
                got = after.model.layers[layer].self_attn
                assert torch.equal(got.q_proj.weight[rows], want.q_proj.weight[rows])
                assert torch.equal(got.o_proj.weight[:, rows], want.o_proj.weight[:, rows])
        mlp = (before if way == "without" else scratch).model.layers[1].mlp.up_proj.weight
        assert torch.equal(after.model.layers[1].mlp.up_proj.weight, mlp)


def test_a_rule_that_finds_no_head_leaves_its_arms_out_and_says_why(trained):
    folder, asked = trained
    said = record(folder, NONE.model_copy(update={"sets": 1}))
    assert said["heads"] == [] == said["random"]
    assert said["sentence"].startswith("no head is of the kind: the highest score by induction in ppt.repeat.s0 is 0.")
    plan = {job.id: job for job in make_plan(asked, "fp32").jobs}
    for name in ("repeat-without-induction", "repeat-without-induction-r1"):
        assert not folder.run(f"pt.{name}.web.s0").config.exists()
        assert is_done(folder, plan[f"train:pt.{name}.web.s0"])
        execute(folder.path, plan[f"probes:pt.{name}.web.s0"], None)  # nothing to measure, and no error
    assert is_done(folder, plan["train:pt.repeat-without-previous-token.web.s0"])
    board = BoardReader(folder, plan.values()).read()
    out = {row.run: row.message for row in board.rows if row.state == "left out"}
    assert set(out) == {"pt.repeat-without-induction.web.s0", "pt.repeat-without-induction-r1.web.s0"}
    assert set(out.values()) == {said["sentence"]}
    assert board.finished


def test_a_rule_is_decided_once(trained):
    folder, asked = trained
    path = folder.path / FOUND.model_copy(update={"sets": 2}).file.replace("{parent}", "ppt.repeat.s0")
    before = path.stat().st_mtime_ns
    job = next(job for job in make_plan(asked, "fp32", analyze=False).jobs if job.id == "head-rules:ppt.repeat.s0")
    execute(folder.path, job, None)
    assert path.stat().st_mtime_ns == before
    assert len(rules_of(asked, Collection.open(folder.path).run("ppt.repeat.s0"))) == 2


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (HeadRule(probe="inductoin", k=1), "did you mean"),
        (HeadRule(probe="entropy", k=1), "'entropy' names no kind of head"),
    ],
)
def test_an_unknown_kind_of_head_is_refused_before_anything_runs(rule, message):
    with pytest.raises(UserError, match=message):
        make_plan(study(*mediation_arms(REPEAT, rule)), "fp32")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"k": 2, "share": 0.1}, "legal: one of the two"),
        ({"k": 8}, "8 of 8 heads leave none to compare with; legal: 1 to 7"),
        ({"k": 1, "layers": (2,)}, "layers: 2; legal: 0 to 1"),
        ({"k": 4, "layers": (1,)}, "4 of 4 heads leave none"),
        ({"layers": ()}, "layers: "),
        ({"random": 5}, "5 of 4 sets; legal: 1 to 4"),
    ],
)
def test_a_rule_that_the_network_cannot_follow_is_refused(fields, message):
    def asked():
        arms = mediation_arms(REPEAT, HeadRule(probe="induction", **fields))
        return Study.model_validate(study(*arms).model_dump())

    with pytest.raises(ValueError, match=message):
        asked()


def test_rules_choose_by_level_layers_and_size():
    scores = Scores({(0, 0): 0.9, (0, 1): 0.5, (1, 0): 0.7, (1, 1): 0.1}, 0.05, 0.4, 0.3, [0.2])

    def heads(**fields):
        return chosen(HeadRule(probe="induction", **fields), "induction", scores, "ppt.x.s0").heads

    assert heads(k=2) == [(0, 0), (1, 0)]
    assert heads(k=4) == [(0, 0), (1, 0), (0, 1)]
    assert heads(k=4, otherwise="top") == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert heads(k=2, layers=(1,)) == [(1, 0)]
    assert heads(share=0.5) == [(0, 0), (1, 0)]
    assert heads() == [(0, 0)]
    none = chosen(HeadRule(probe="dyck_opener"), "dyck_opener", scores._replace(skipped="no brackets"), "ppt.x.s0")
    assert none == ([], "the probe dyck_opener does not apply to ppt.x.s0: no brackets")
