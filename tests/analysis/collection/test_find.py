"""What a user names, and the list of checkpoints that it stands for."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from nca_interp.analysis.collection.collection import Collection, Settings
from nca_interp.analysis.collection.find import find, folder_name
from nca_interp.base import UserError
from nca_interp.store import AnalysisDir


def checkpoint(folder: Path, **provenance: object) -> Path:
    """A folder that looks like a checkpoint."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    if provenance:
        (folder / "provenance.json").write_text(json.dumps(provenance))
    return folder


def identity(listed):
    return [(e.run, e.label, e.step, e.seed) for e in listed.entries]


def test_a_directory_is_called_after_itself_or_its_label(tmp_path):
    one, other = checkpoint(tmp_path / "gpt"), checkpoint(tmp_path / "other")
    assert identity(find([str(one)], Settings())) == [("gpt", "gpt", 0, None)]
    listed = find([f"base={one}", f"fine tuned={other}"], Settings())
    assert identity(listed) == [("base", "base", 0, None), ("fine-tuned", "fine tuned", 0, None)]
    assert (listed.title, folder_name(listed)) == ("base and fine tuned", "base+fine-tuned")


@pytest.mark.parametrize(
    "pattern", ["checkpoint-{}", "step-{:08d}", "step_{}", "global_step{}", "model-step{}", "iter-{}"]
)
def test_a_folder_of_steps_is_one_run(tmp_path, pattern):
    for step in (1000, 5, 20):
        checkpoint(tmp_path / "trained" / pattern.format(step))
    (tmp_path / "trained" / "runs").mkdir()
    (tmp_path / "trained" / "optimizer.pt").write_bytes(b"never opened")
    listed = find([str(tmp_path / "trained")], Settings())
    assert identity(listed) == [("trained", "trained", step, None) for step in (5, 20, 1000)]


def test_two_folders_of_one_step_are_refused(tmp_path):
    for name in ("checkpoint-5", "step-5"):
        checkpoint(tmp_path / name)
    with pytest.raises(UserError, match="checkpoint-5 and step-5 are of one step"):
        find([str(tmp_path)], Settings())


def test_a_trainer_folder_says_its_step_and_tokens_itself(tmp_path):
    folder = checkpoint(tmp_path / "final")
    (folder / "trainer_state.json").write_text('{"global_step": 77, "num_input_tokens_seen": 4096}')
    (entry,) = find([str(folder)], Settings()).entries
    assert (entry.step, entry.tokens) == (77, 4096)


def test_our_own_checkpoints_know_who_they_are(tmp_path):
    ours = {
        "run": "pt.nca.web.s1",
        "regime": "nca",
        "domain": "web",
        "seed": 1,
        "stage": "pt",
        "step": 4,
        "tokens": 512,
    }
    folder = checkpoint(tmp_path / "step-00000004", **ours)
    (entry,) = find([str(folder)], Settings()).entries
    assert (entry.run, entry.regime, entry.domain, entry.seed, entry.stage, entry.step, entry.tokens) == (
        "pt.nca.web.s1", "nca", "web", 1, "pt", 4, 512,
    )  # fmt: skip


def test_mistakes_are_named(tmp_path):
    one = checkpoint(tmp_path / "a" / "model")
    other = checkpoint(tmp_path / "b" / "model")
    with pytest.raises(UserError, match="named twice"):
        find([str(one), f"again={one}"], Settings())
    with pytest.raises(UserError, match=r"two checkpoints are called 'model'; give them labels: --checkpoint one="):
        find([str(one), str(other)], Settings())
    (tmp_path / "list.yaml").write_text("- regime: nca\n")
    with pytest.raises(UserError, match="checkpoint 1 has no path"):
        find([str(tmp_path / "list.yaml")], Settings())
    (tmp_path / "list.yaml").write_text(f"- path: {one}\n  seed: many\n")
    with pytest.raises(UserError, match="list.yaml: checkpoint 1: seed"):
        find([str(tmp_path / "list.yaml")], Settings())
    (tmp_path / "list.yaml").write_text("a: [")
    with pytest.raises(UserError, match="not readable as YAML"):
        find([str(tmp_path / "list.yaml")], Settings())
    (tmp_path / "list.py").write_text("x = 1\n")
    with pytest.raises(UserError, match="defines neither CHECKPOINTS nor checkpoints"):
        find([str(tmp_path / "list.py")], Settings())
    with pytest.raises(UserError, match="no such file"):
        find([str(tmp_path / "nowhere.yaml")], Settings())


def test_a_file_lists_runs_of_others_with_regime_and_seed(tmp_path):
    for regime in ("nca", "scratch"):
        for seed in range(2):
            checkpoint(tmp_path / regime / str(seed))
    rows = "\n".join(
        f"- {{path: {regime}/{seed}, regime: {regime}, seed: {seed}, domain: web, stage: pt, step: 9}}"
        for regime in ("nca", "scratch") for seed in range(2)
    )  # fmt: skip
    (tmp_path / "models.yaml").write_text(f"checkpoints:\n{rows}\n")
    listed = find([str(tmp_path / "models.yaml")], Settings())
    assert [e.run for e in listed.entries] == [f"pt.{r}.web.s{s}" for r in ("nca", "scratch") for s in range(2)]
    python = "CHECKPOINTS = [{'path': 'nca/0', 'regime': 'nca'}, {'path': 'nca/1', 'label': 'other'}]\n"
    (tmp_path / "models.py").write_text(python)
    assert [e.run for e in find([str(tmp_path / "models.py")], Settings()).entries] == ["nca", "other"]


def test_hub_revisions_of_a_pattern_are_a_series(monkeypatch):
    refs = SimpleNamespace(branches=[SimpleNamespace(name=n) for n in ("main", "step1000", "step2", "other")], tags=[])
    monkeypatch.setattr("huggingface_hub.list_repo_refs", lambda repository: refs)
    listed = find(["org/model@step*"], Settings())
    assert [(e.path, e.run, e.step) for e in listed.entries] == [
        ("org/model@step2", "org-model", 2), ("org/model@step1000", "org-model", 1000)
    ]  # fmt: skip
    with pytest.raises(UserError, match="no revision with a number is called so; there are: main"):
        find(["org/model@epoch*"], Settings())


def test_a_collection_is_what_its_folder_says(tmp_path):
    checkpoints = [checkpoint(tmp_path / name) for name in ("a", "b")]
    listed = find([str(c) for c in checkpoints], Settings())
    directory = AnalysisDir(tmp_path / "out")
    directory.claim_collection(listed.model_dump(mode="json"), {"command": "test"})
    collection = Collection.open(directory.path)
    assert (collection.kind, [run.id for run in collection.runs]) == ("pair", ["a", "b"])
    assert [run.last for run in collection.runs] == checkpoints
    assert collection.run("a").kept("probes", 0) == directory.path / "measured/a/probes/step-00000000.csv"
    other = find([str(checkpoints[0])], Settings())
    with pytest.raises(UserError, match="holds an analysis of other checkpoints"):
        directory.claim_collection(other.model_dump(mode="json"), {})
    settings = find([str(c) for c in checkpoints], Settings(fast=True))
    directory.claim_collection(settings.model_dump(mode="json"), {})  # how they are read may change
    assert Collection.open(directory.path).settings.fast
