"""The plan of a study that has begun: from its folder alone, in every format, with what is done."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from nca_interp.cli.app import call
from nca_interp.engine.export import Commands, as_json, as_make
from nca_interp.engine.journal import Journal
from nca_interp.engine.plan import make_plan
from nca_interp.engine.stands import Stand, left, stands_of
from nca_interp.store import StudyDir, write_json
from tests.engine.test_change import STUDY

RUNS = {"pt.scratch.d.s0": {"state": "done", "step": 2}, "ppt.nca.s0": {"state": "running", "step": 1}}


@pytest.fixture
def begun(tmp_path, monkeypatch) -> Path:
    """A folder in which one run is done, one is left by a process that is gone, and one measurement is done."""
    monkeypatch.chdir(tmp_path)
    Path("corpus.jsonl").write_text('{"text": "a"}\n')
    directory = StudyDir(Path("s"))
    directory.claim(STUDY.model_dump(mode="json"), {"command": "nca-interp train tiny", "precision": "fp32"})
    for run in make_plan(STUDY, "fp32", analyze=False).runs:
        if run.id in RUNS:
            write_json(directory.run(run.id).config, run.model_dump(mode="json"))
            write_json(directory.run(run.id).status_file, {"pid": 1, "host": "gone", "time": 0} | RUNS[run.id])
            directory.run(run.id).lock.touch()
    with Journal.begun(directory.path) as journal:
        for job in ("probes:pt.scratch.d.s0", "probes:ppt.nca.s0"):
            journal.add("start", job)
            journal.add("done", job)
    return directory.path


def told(capsys, *words: str) -> str:
    assert call([*words]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_a_folder_says_which_jobs_are_done_and_how_each_goes_on(begun, capsys):
    plan = json.loads(told(capsys, "plan", "s"))
    jobs = {job["id"]: job for job in plan["jobs"]}
    assert {name for name, job in jobs.items() if job["state"] == "done"} == {
        "train:pt.scratch.d.s0",
        "probes:pt.scratch.d.s0",  # not that of ppt.nca.s0, whose run is not done
    }
    assert plan["done"] == 2
    half = jobs["train:ppt.nca.s0"]
    assert (half["state"], half["step"], half["steps"]) == ("stopped", 1, 2)
    assert half["command"].endswith(f"train {begun.absolute()} --job train:ppt.nca.s0")
    by_recipe = make_plan(STUDY, "fp32")
    assert list(jobs) == [job.id for job in by_recipe.jobs]
    changed = json.loads(told(capsys, "plan", "s", "--set", "title=x", "--regime", "scratch"))
    assert changed["jobs"][0]["command"].endswith("s --regime scratch --set title=x --job " + changed["jobs"][0]["id"])
    assert not (begun / "runs/pt.nca.d.s0").exists()


def test_done_jobs_are_white_need_no_command_and_get_no_task(begun, capsys):
    dot = told(capsys, "plan", "s", "--format", "dot")
    assert '"train:pt.scratch.d.s0" [fillcolor=white label="train:pt.scratch.d.s0: done"]' in dot
    assert '"train:ppt.nca.s0" [fillcolor=lightblue label="train:ppt.nca.s0: stopped"]' in dot
    made = told(capsys, "plan", "s", "--format", "make")
    assert "--job train:pt.scratch.d.s0" not in made
    assert "--job train:ppt.nca.s0" in made
    if shutil.which("make"):
        order = subprocess.run(["make", "-n", "-f", "-"], input=made, capture_output=True, text=True)
        assert order.returncode == 0, order.stderr
        assert order.stdout.index("--job train:ppt.nca.s0") < order.stdout.index("--job train:pt.nca.d.s0")
    script = told(capsys, "plan", "s", "--format", "slurm", "--tasks", "2", "--rate", "1e9")
    line = next(line for line in script.splitlines() if "--array" in line)
    assert line == "#SBATCH --array=0"  # the larger share; of the other one nothing is left
    assert "1 of 3 runs are done already" in script
    assert f"train {begun.absolute()} --share" in script
    whole = told(capsys, "plan", "s", "--format", "slurm", "--tasks", "2", "--rate", "1e9", "--set", "title=x")
    assert "--set title=x" in whole


def test_what_is_no_study_is_refused(begun, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "phase").mkdir()
    from nca_interp.files import write_record

    write_record(tmp_path / "phase/phase.json", {"phase": {}, "provenance": {"command": "nca-interp train x"}})
    for words, said in (
        (("plan", str(empty)), "not a study"),
        (("plan", "s", "--out", "t"), "--out t: goes with a recipe"),
        (("train", "s", "--out", "t"), "--out t: goes with a recipe"),
        (("plan", "s", "--set", "margin=0.5"), "belongs to another configuration"),
        (("train", "./phase"), "a phase diagram, which chooses"),
        (("plan", "nowhere"), "unknown run 'nowhere'"),
    ):
        assert call([*words]) == 2, words
        assert said in capsys.readouterr().err, words


def test_a_recipe_goes_before_a_folder_of_its_name(begun, capsys):
    begun.rename("smoke")
    assert json.loads(told(capsys, "plan", "smoke"))["study"] == "smoke"
    assert json.loads(told(capsys, "plan", "./smoke"))["study"] == "tiny"


def test_what_is_left_of_a_job(begun):
    plan = make_plan(STUDY, "fp32")
    found = stands_of(StudyDir(begun), plan)
    shares = {job.id: left(job, found) for job in plan.jobs if job.kind == "train"}
    assert shares == {"train:pt.scratch.d.s0": 0.0, "train:ppt.nca.s0": 0.5, "train:pt.nca.d.s0": 1.0}
    (begun / "runs/ppt.nca.s0/status.json").write_text("{")
    assert stands_of(StudyDir(begun), plan)["train:ppt.nca.s0"] == Stand("damaged")
    commands = Commands(["train"], ["analyze"], ["report"])
    assert not any(
        "done already" in line for line in as_make(plan, commands, begun, {})
    )  # of a study that has not begun
    assert '"done": 0' in "\n".join(as_json(plan, _Free(), commands, begun, {}))


class _Free(dict):
    def __missing__(self, key):
        from nca_interp.engine.engines import Resources

        return Resources()
