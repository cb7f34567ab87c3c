"""Causes of a study: kept, measured again where something changed, and joined across the swap; planted heads show up."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nca_interp.analysis.causes import study as causes_study
from nca_interp.analysis.causes.circuit_edges import circuit_edges
from nca_interp.analysis.causes.load_bearing import LOADS
from nca_interp.analysis.causes.options import CausesOptions
from nca_interp.analysis.causes.shared_heads import checkpoint_load
from nca_interp.analysis.causes.study import causes_of_run, causes_table, outdated
from nca_interp.analysis.causes.table import COLUMNS
from nca_interp.analysis.collection.collection import Settings
from nca_interp.analysis.probing.engine import analyze_run
from nca_interp.analysis.tables import build_tables
from nca_interp.base import UserError
from nca_interp.data.tokens import TokenFile, write_tokens
from nca_interp.measurement import Asked
from nca_interp.model.checkpoint import save_model
from nca_interp.model.llama import build
from nca_interp.store import StudyDir
from tests.analysis.models import planted_gpt2
from tests.analysis.runs import opened, run_of
from tests.analysis.test_tables import MODEL, NCA, TEXT, _add_run, _study

RUNS = ("ppt.nca.s0", "pt.nca.math.s0", "pt.no-attn.math.s0", "pt.scratch.math.s0")


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> StudyDir:
    """One seed before and after the swap, its re-initialisation, and scratch, whose weights are planted ones."""
    directory = StudyDir(tmp_path_factory.mktemp("causes"))
    directory.claim(_study().model_dump(mode="json"), {"command": "test"})
    metas = {}
    for name, spec in {"nca": NCA, "math": TEXT}.items():
        write_tokens(directory.path / "tokens" / name, spec, n_train=16, n_val=8, seq_len=64, seed=0)
        metas[name] = TokenFile.open(directory.path / "tokens" / name).meta
    for run_id in RUNS:
        stage, regime = run_id.split(".")[:2]
        tokens = "nca" if stage == "ppt" else "math"
        _add_run(
            directory, stage, regime, 0, f"tokens/{tokens}", "ppt.nca.s0" if regime in ("nca", "no-attn") else None
        )
        provenance = {
            "run": run_id, "regime": regime, "domain": None if stage == "ppt" else "math", "seed": 0, "stage": stage,
            "step": 4, "tokens": 512, "tokens_dir": f"tokens/{tokens}", "meta": metas[tokens].model_dump(mode="json"),
        }  # fmt: skip
        model = build(MODEL, metas[tokens].vocab_size, 0, stage)
        if regime == "scratch":
            from transformers import AutoModelForCausalLM

            model = AutoModelForCausalLM.from_pretrained(planted_gpt2(tmp_path_factory.mktemp("planted")))
            provenance = {**provenance, "tokens_dir": None, "meta": {}}
        save_model(model, directory.run(run_id).checkpoint(4), provenance, None)
    for run_id in ("ppt.nca.s0", "pt.nca.math.s0", "pt.scratch.math.s0"):
        assert causes_of_run(run_of(directory, run_id)) == []
    return directory


@pytest.fixture(scope="module")
def table(study) -> pd.DataFrame:
    return build_tables(study.path)["causes"]


@pytest.fixture
def measured(monkeypatch) -> list[Path]:
    """Checkpoints that were measured, each in no time."""
    calls: list[Path] = []

    def counted(checkpoint, **options):
        calls.append(checkpoint)
        raise UserError("a context of 4 tokens is too short")

    monkeypatch.setattr(causes_study, "causes", counted)
    return calls


def test_all_runs_stand_in_one_table_with_the_documented_columns(study, table):
    assert list(table.columns) == COLUMNS
    assert set(table["run"]) == {"ppt.nca.s0", "pt.nca.math.s0", "pt.scratch.math.s0"}
    identity = table[table["run"] == "ppt.nca.s0"][["regime", "domain", "seed", "stage", "step"]].drop_duplicates()
    assert identity.to_numpy().tolist() == [["nca", "", 0, "ppt", 4]]
    written = pd.read_csv(study.table("causes"))
    assert list(written.columns) == COLUMNS
    np.testing.assert_array_equal(written["value"], table["value"].to_numpy(float))
    assert {"own_loss", "nca_loss", "nca_cell_accuracy"} <= set(table[table["run"] == "ppt.nca.s0"].metric)
    language = table[table["run"] == "pt.nca.math.s0"]
    assert {"own_loss", "nca_loss", "repeated_token_loss"} <= set(language.metric)
    effects = language[(language["metric"] == "nca_loss") & (language["probe"] == "ablation")]
    assert effects["unit"].str.contains("laid over the vocabulary").all()


def test_planted_heads_are_what_the_planted_run_loses_most_by(study, table):
    rows = table[(table["run"] == "pt.scratch.math.s0") & (table["metric"] == "repeated_token_loss")]
    heads = rows[rows["probe"] == "ablation"].set_index(["layer", "head"])
    assert heads["rank"].idxmin() == (0, 0)
    assert heads.loc[(0, 0), "value"] > 2 < heads.loc[(1, 0), "value"]
    assert abs(heads.loc[(0, 1), "value"]) < 1e-6
    edge = rows[rows["probe"] == "edge"]
    assert ((edge["from_head"] == 0) & (edge["layer"] == 1)).any()
    kept = json.loads(run_of(study, "pt.scratch.math.s0").kept("causes", 4).with_suffix(".json").read_text())
    assert any(reason.startswith("natural: no token file") for reason in kept["attrs"]["skipped"])


def test_across_the_swap_heads_are_compared_where_all_weights_come_along(table):
    rows = table[table["probe"] == "cross_stage"]
    assert set(rows["run"]) == {"pt.nca.math.s0"}
    assert set(rows["at"]) == {"ppt.nca.s0"}
    before, after = (table[table["run"] == run] for run in ("ppt.nca.s0", "pt.nca.math.s0"))
    assert len(rows) == 3
    for row in rows.itertuples():
        load = checkpoint_load(before, after, row.metric, row.by)
        assert (row.value, row.p, row.n) == (load.rho, load.p, 4)


def test_nothing_is_measured_twice(study, measured):
    files = {
        path: path.read_bytes() for run in RUNS for path in (study.run(run).path / "causes").glob("*") if path.is_file()
    }
    assert len(files) == 6
    for run in ("ppt.nca.s0", "pt.nca.math.s0", "pt.scratch.math.s0"):
        assert causes_of_run(run_of(study, run)) == []
    assert measured == []
    assert all(path.read_bytes() == content for path, content in files.items())
    assert outdated(opened(study).runs) == []


@pytest.mark.parametrize("what", ["weights", "probe", "code", "damaged table"])
def test_what_changed_is_measured_again_and_until_then_in_no_table(study, tmp_path, measured, monkeypatch, what):
    shutil.copytree(study.path, tmp_path / "study")
    copy, folder = StudyDir(tmp_path / "study"), None
    run = run_of(copy, "pt.nca.math.s0")
    if what == "weights":
        shutil.rmtree(run.checkpoint(4))
        other = study.run("ppt.nca.s0").checkpoint(4)
        shutil.copytree(other, run.checkpoint(4))
    elif what == "probe":
        folder = tmp_path / "probes"
        folder.mkdir()
        source = causes_study.scoring_probes()["previous_token"].path.read_text()
        (folder / "previous_token.py").write_text(source + "\n")
    elif what == "code":
        monkeypatch.setattr(causes_study, "code_hash", lambda files: "other code")
    else:
        run.kept("causes", 4).write_text("run,value\n1")
    assert run.id in outdated(opened(copy).runs, folder)
    assert run.id not in set(causes_table(opened(copy).runs, folder)["run"])
    for _ in range(2):
        assert causes_of_run(run, folder) == []
    assert measured == [run.checkpoint(4)]  # once: the reason is kept like a result
    kept = json.loads(run.kept("causes", 4).with_suffix(".json").read_text())
    assert kept["attrs"]["skipped"] == ["not measured: a context of 4 tokens is too short"]
    assert run.id not in outdated(opened(copy).runs, folder)


def test_other_options_are_measured_again_but_what_is_kept_stays_in_the_table(study, tmp_path, measured):
    shutil.copytree(study.path, tmp_path / "study")
    run = run_of(tmp_path / "study", "pt.nca.math.s0")
    for options in (CausesOptions(), CausesOptions(how="zero"), CausesOptions(how="zero")):
        assert run.id not in outdated(opened(StudyDir(tmp_path / "study")).runs)
        assert causes_of_run(run, options=options) == []
    assert measured == [run.checkpoint(4)]


def test_what_is_asked_is_measured_and_said_and_stands_in_the_table(study, tmp_path):
    shutil.copytree(study.path, tmp_path / "study")
    run, said = run_of(tmp_path / "study", "pt.nca.math.s0"), []
    options = CausesOptions(stages=("ablation", "weights"), metric=("own_loss",))
    asked = Asked(opened(StudyDir(tmp_path / "study")), options, None, lambda *told: said.append(told))
    assert causes_study.measure(run, asked) == []
    found = causes_table([run])
    assert set(found[found["probe"] == "ablation"]["metric"]) == {"own_loss"}
    assert not {"knock_out", "top_heads", "logit_lens"} & set(found["probe"])
    assert any("2 parts" in what for what, _ in said)
    assert len(list(run.kept("causes", 4).with_suffix("").glob("*.csv"))) >= 2
    edges = circuit_edges(found, build_tables(tmp_path / "study")["probes"])
    assert set(edges["kind"]) == {"Q", "K", "V"}
    assert causes_study.cost(run, options) < causes_study.cost(run, CausesOptions())


def test_a_damaged_checkpoint_is_a_problem_of_its_job_alone(study, tmp_path, measured):
    shutil.copytree(study.path, tmp_path / "study")
    run = run_of(tmp_path / "study", "pt.no-attn.math.s0")
    weights = run.checkpoint(4) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    weights.write_bytes(content[:-1])
    (problem,) = causes_of_run(run)
    assert "damaged checkpoint, model.safetensors has" in problem
    content[-1] ^= 1
    weights.write_bytes(content)
    (problem,) = causes_of_run(run)
    assert "model.safetensors was altered" in problem  # told, not kept as what the model is like
    assert not run.kept("causes", 4).exists()
    (run.checkpoint(4) / "MANIFEST.json").unlink()
    assert "no readable MANIFEST.json" in causes_of_run(run)[0]


def test_scores_that_the_analysis_kept_are_used_and_give_the_same_table(study, table, tmp_path, monkeypatch):
    shutil.copytree(study.path, tmp_path / "study")
    run = run_of(tmp_path / "study", "pt.nca.math.s0")
    run.kept("causes", 4).unlink()
    made_from = causes_study._made_from(run, 4, causes_study._probe_files(None), Settings())
    assert causes_study._measured_scores(run, 4, made_from) is None
    assert analyze_run(run).problems == []

    def refused(*arguments):
        raise AssertionError("scores were measured again")

    monkeypatch.setattr("nca_interp.analysis.causes.causes._measure_scores", refused)
    assert causes_of_run(run) == []
    again = causes_table([run])
    before = table[(table["run"] == run.id) & (table["probe"] != "cross_stage")].reset_index(drop=True)
    pd.testing.assert_frame_equal(again, before, rtol=1e-6, check_dtype=False)


def test_without_anything_kept_there_is_no_table(study, table, tmp_path):
    shutil.copytree(study.path, tmp_path / "study")
    copy = StudyDir(tmp_path / "study")
    for run in copy.all_runs():
        shutil.rmtree(run.path / "causes", ignore_errors=True)
    made = ("causes", "circuit_edges", *LOADS)
    assert all(copy.table(name).is_file() for name in made)
    assert not set(made) & set(build_tables(copy.path))
    assert not any(copy.table(name).exists() for name in made)


def test_causes_of_a_checkpoint_from_elsewhere_are_of_the_run_that_it_is_called():
    from nca_interp.analysis.causes.study import _as_of
    from nca_interp.analysis.causes.table import as_table
    from nca_interp.analysis.collection.run import Run

    kept = as_table([{"run": "some-directory", "probe": "ablation", "layer": 0, "head": 1, "value": 0.5, "step": 4}])
    kept.attrs = {"skipped": ["a reason"]}
    run = Run("label", Path("measured/label"), regime="nca", seed=2, tokens_at={7: 100})
    found = _as_of(run, 7, kept)
    row = found.iloc[0]
    assert (row.run, row.regime, row.seed, row.step, row.tokens) == ("label", "nca", 2, 7, 100)
    assert (row.probe, row["head"], row.value) == ("ablation", 1, 0.5)
    assert found.attrs == kept.attrs
    assert all(str(found[name].dtype) == "Int64" for name in ("seed", "step", "tokens", "head"))
