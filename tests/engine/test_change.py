"""What may change in a study that has begun: labels, title, one more arm or seed; nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nca_interp.base import UserError
from nca_interp.cli.plan import stands
from nca_interp.cli.running import run_plan
from nca_interp.config import Domain, ModelConfig, Regime, StageConfig, Study, paired_seeds
from nca_interp.data.specs import NcaSpec, TextSpec, TokenizerSpec
from nca_interp.engine.change import alters_no_run, arranged
from nca_interp.engine.cost import print_plan
from nca_interp.engine.plan import make_plan
from nca_interp.outputs import begins, check_output, holds
from nca_interp.store import StudyDir, write_json

STAGE = StageConfig(steps=2, batch_size=2, lr=1e-3, eval_every=2, checkpoint_every=2, checkpoints="ends")
SCRATCH, NCA = (
    Regime(name="scratch", label="Scratch"),
    Regime(name="nca", label="NCA", source=NcaSpec(grid=6, n_states=2, band=None)),
)
TEXT = TextSpec(source="files:corpus.jsonl", tokenizer=TokenizerSpec(vocab_size=300))
STUDY = Study(
    name="tiny", title="Tiny", seeds=paired_seeds(1), pt=STAGE, ppt=STAGE, val_rows=4, regimes=(SCRATCH, NCA),
    model=ModelConfig(n_layers=1, d_model=16, n_heads=1, d_mlp=32, n_ctx=64),
    domains=(Domain(name="d", label="D", source=TEXT),),
)  # fmt: skip
LATER = NCA.model_copy(update={"name": "later", "source": NcaSpec(grid=6, n_states=3, band=None)})
SAME_DATA = NCA.model_copy(update={"name": "attn", "keep": ("attn",)})


@pytest.mark.parametrize(
    ("harmless", "change"),
    [
        (True, {"title": "Another", "deviations": ("one",)}),
        (True, {"regimes": (SCRATCH, NCA.model_copy(update={"label": "other", "role": "control"}))}),
        (True, {"domains": (STUDY.domains[0].model_copy(update={"label": "other"}),)}),
        (True, {"regimes": (LATER, SCRATCH, NCA)}),
        (True, {"regimes": (SCRATCH, NCA, SAME_DATA)}),
        (True, {"seeds": paired_seeds(3)}),
        (True, {"domains": (*STUDY.domains, STUDY.domains[0].model_copy(update={"name": "e"}))}),
        (False, {"regimes": (SCRATCH, SAME_DATA, NCA)}),  # whose pre-pre-training would then be the other's
        (False, {"regimes": (SCRATCH,)}),
        (False, {"seeds": paired_seeds(2)[1:]}),
        (False, {"margin": 0.5}),
        (False, {"name": "other"}),
        (False, {"val_rows": 5}),
        (False, {"pt": STAGE.model_copy(update={"lr": 2e-3})}),
        (False, {"regimes": (SCRATCH, NCA.model_copy(update={"keep": ("attn",)}))}),
    ],
)
def test_what_alters_no_run(harmless, change):
    there, asked = (study.model_dump(mode="json") for study in (STUDY, STUDY.model_copy(update=change)))
    assert alters_no_run(there, asked, "fp32") == harmless


def test_a_new_arm_before_the_one_that_names_a_shared_stage_leaves_it_its_name():
    there = STUDY.model_dump(mode="json")
    asked = STUDY.model_copy(update={"regimes": (SAME_DATA, LATER, SCRATCH, NCA)})
    found = arranged(there, asked, "fp32")
    assert [r.name for r in found.regimes] == ["scratch", "nca", "attn", "later"]
    assert alters_no_run(there, found.model_dump(mode="json"), "fp32")
    runs = {run.id: run for run in make_plan(found, "fp32", analyze=False).runs}
    assert runs["pt.attn.d.s0"].parent == runs["pt.nca.d.s0"].parent == "ppt.nca.s0"
    assert "ppt.attn.s0" not in runs
    again = arranged(found.model_dump(mode="json"), asked, "fp32")
    assert again == found, "the same command, given again"

    harmless = STUDY.model_copy(update={"regimes": (LATER, NCA, SCRATCH)})
    assert arranged(there, harmless, "fp32") == harmless, "an order that names nothing anew is that of the recipe"
    other = asked.model_copy(update={"margin": 0.5})
    assert arranged(there, other, "fp32") == other, "what is refused is refused as it was asked"
    assert arranged({"name": "no study"}, asked, "fp32") == asked


def test_a_new_label_arm_and_seed_train_only_what_is_new(tmp_path, monkeypatch):
    def train(study: Study, folder: str = "s") -> int:
        return run_plan(Path(folder), study, make_plan(study, "fp32", analyze=False), workers=2, threads=1)

    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"text": f"Document {i} on {i * i}. " * 9}) + "\n" for i in range(60)]
    Path("corpus.jsonl").write_text("".join(lines))
    Path("s").mkdir()  # an empty folder is as good as none
    small = STUDY.model_copy(update={"regimes": (SCRATCH,), "precision": "fp32"})
    assert train(small) == 0
    run = Path("s/runs/pt.scratch.d.s0")
    kept = {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
    assert kept

    renamed = SCRATCH.model_copy(update={"label": "From scratch"})
    arm = SCRATCH.model_copy(update={"name": "again", "label": "Again", "runs": {"d": 1}})
    more = small.model_copy(update={"regimes": (renamed, arm), "title": "More", "seeds": paired_seeds(2)})
    assert train(more) == 0
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")} == kept
    assert json.loads((run / "run.json").read_text())["label"] == "From scratch"
    runs = sorted(path.name for path in Path("s/runs").iterdir())
    assert runs == ["pt.again.d.s0", "pt.scratch.d.s0", "pt.scratch.d.s1"]
    saved = json.loads(Path("s/study.json").read_text())
    assert saved["study"] == more.model_dump(mode="json")
    assert any("title" in line for line in saved["provenance"]["changes"][0]["changed"])

    with pytest.raises(UserError, match=r"belongs to another configuration:\n  margin: there 0.01, asked for 0.5"):
        train(more.model_copy(update={"margin": 0.5}))
    assert json.loads(Path("s/study.json").read_text()) == saved
    Path("corpus.jsonl").write_text("".join(lines[::-1]))
    with pytest.raises(UserError, match=r"corpus\.jsonl: has changed since .*s/tokens/d-"):
        train(more)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")} == kept


def test_a_dry_run_says_what_is_done_what_would_change_and_what_would_be_refused(tmp_path, capsys):
    directory = StudyDir(tmp_path / "s")
    assert stands(directory.path, STUDY, make_plan(STUDY, "fp32", analyze=False)) == {}
    directory.claim(STUDY.model_dump(mode="json"), {"command": "nca-interp train tiny"})
    done = make_plan(STUDY, "fp32", analyze=False).runs
    for run, status in zip(done, ({"state": "done", "step": 2}, {"state": "stopped", "step": 1}), strict=False):
        write_json(directory.run(run.id).config, run.model_dump(mode="json"))
        write_json(directory.run(run.id).status_file, status)
    more = STUDY.model_copy(update={"title": "More", "regimes": (*STUDY.regimes, SAME_DATA)})
    plan = make_plan(more, "fp32", analyze=False)
    found = stands(directory.path, more, plan)
    print_plan(plan, directory.path, 1, 1, found)
    out = capsys.readouterr().out
    assert "changes     " in out
    assert "alter no run: only what is new is trained" in out
    lines = {line.split()[0]: line for line in out.splitlines() if line.startswith(("pt.", "ppt."))}
    assert lines["pt.scratch.d.s0"].split()[-2:] == ["done", "-"]
    assert lines["ppt.nca.s0"].split()[-4:] == ["1", "of", "2", "-"]
    assert lines["pt.attn.d.s0"].split()[-3:] == ["not", "begun", "ppt.nca.s0"]
    assert "graph       ppt.nca (1 seed(s)) is trained once for nca, attn on d" in out
    assert "to do       3 of 4 runs; 1 are done and stay as they are" in out
    assert ", of which " in out
    other = STUDY.model_copy(update={"margin": 0.5})
    assert stands(directory.path, other, plan) == {}
    assert "refused     " in capsys.readouterr().out
    assert stands(directory.path, other, plan, anew=True)  # a margin may change where the plan is declared anew
    assert "changes     1" in capsys.readouterr().out


def test_a_band_that_no_rule_reaches_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nca_interp.data.nca.rows.TRIES", 500)
    source = NcaSpec(grid=6, n_states=2, band=(0.9, 1.0))
    study = STUDY.model_copy(update={"regimes": (SCRATCH, NCA.model_copy(update={"source": source}))})
    with pytest.raises(
        UserError, match=r"regimes.nca.source: band: \[0.9, 1\) is out of reach: 0 of .* choose a band inside"
    ):
        run_plan(Path("s"), study, make_plan(study, "fp32", analyze=False), workers=1, threads=1)
    assert not Path("s").exists()


@pytest.mark.parametrize(
    ("folder", "message"),
    [("file/s", "is a file, and a folder is needed|is no folder"), ("/proc/s", "nothing can be written in /proc")],
)
def test_a_place_that_cannot_be_written_is_noticed_before_the_work(tmp_path, monkeypatch, folder, message):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    with pytest.raises(UserError, match=message):
        run_plan(Path(folder), STUDY, make_plan(STUDY, "fp32", analyze=False), workers=1, threads=1)
    for refuse in (
        lambda path: check_output("--out", path, "match", holds("record")),
        lambda path: check_output("--csv", path / "x.csv", "table", begins("start")),
    ):
        with pytest.raises(UserError, match=message):
            refuse(Path(folder))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
