"""What verdicts are made from: documents of the validation set, files that are whole, runs that are lost."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from nca_interp.analysis.collection.collection import run_of
from nca_interp.analysis.collection.run import Run, Trained
from nca_interp.analysis.verdicts.evidence import accuracies, document_losses, document_of_rows, final_losses
from nca_interp.base import UserError, digest
from nca_interp.config import Domain, ModelConfig, Regime, Seeds, StageConfig, Study
from nca_interp.data.specs import DyckSpec, TextSpec
from nca_interp.data.tokens import TokenFile, write_tokens
from nca_interp.store import RunDir, StudyDir
from nca_interp.train.run import RunConfig

STAGE = StageConfig(steps=4, batch_size=2, lr=1e-3)
MODEL = ModelConfig(n_layers=1, d_model=16, n_heads=2, d_mlp=24, n_ctx=32)
DYCK = DyckSpec(k=8, max_depth=4)


def _tokens(rows, end):
    return SimpleNamespace(val=np.array(rows), meta=SimpleNamespace(end_id=end))


def test_rows_belong_to_the_document_that_goes_on_in_them():
    rows = [[1, 2], [3, 4], [0, 5], [6, 7], [8, 0], [9, 9]]
    assert document_of_rows(_tokens(rows, 0)).tolist() == [0, 0, 1, 1, 2, 2]
    assert document_of_rows(_tokens(rows, None)).tolist() == [0, 1, 2, 3, 4, 5]
    assert document_of_rows(_tokens(rows, 99)).tolist() == [0, 1, 2, 3, 4, 5]  # one document is no sample


def _keep(path, **changes):
    kept = {"step": 4, "nll": [1.0, 2.0, 4.0], "targets": [2, 2, 3]}
    path.mkdir(parents=True, exist_ok=True)
    (path / "validation.json").write_text(json.dumps({**kept, "sha256": digest(kept), **changes}))


def test_losses_of_documents_are_those_that_were_hashed(tmp_path):
    run = RunDir(tmp_path / "run")
    documents = np.array([0, 0, 1])
    assert document_losses(run, 4, documents) is None
    _keep(run.path)
    found = document_losses(run, 4, documents)
    assert found is not None
    assert [a.tolist() for a in found] == [[3.0, 4.0], [4.0, 3.0]]
    for changes in ({"nll": [1.0, 2.0, 5.0]}, {"sha256": "0"}, {"step": 5}):
        _keep(run.path, **changes)
        with pytest.raises(UserError, match=r"validation.json: damaged; delete it"):
            document_losses(run, 4, documents)


@pytest.fixture
def study(tmp_path) -> tuple[StudyDir, Study, list[Run]]:
    directory = StudyDir(tmp_path / "study")
    meta = write_tokens(directory.tokens / "t", DYCK, n_train=8, n_val=4, seq_len=32, seed=0)
    regimes = (
        Regime(name="scratch", label="s"), Regime(name="nca", label="n", source=DYCK),
        Regime(name="no-attn", label="a", source=DYCK, keep=("mlp",), role="transfer"),
    )  # fmt: skip
    config = Study(
        name="t", title="t", model=MODEL, regimes=regimes, domains=(Domain(name="web", label="w", source=TextSpec(source="arithmetic:")),),
        seeds=tuple(Seeds(init=s, order=s, rules=s) for s in range(3)), ppt=STAGE, pt=STAGE,
    )  # fmt: skip

    def run(stage, regime, seed, state, losses=()) -> Run:
        domain = "web" if stage == "pt" else None
        own = RunConfig(
            id=f"{stage}.{regime}.s{seed}", stage=stage, regime=regime, label="", role="regime", domain=domain, seed=seed,
            seeds=config.seeds[seed], model=MODEL, config=STAGE, tokens="tokens/t", source={}, parent=None, keep=(),
            reinit_to="initial", precision="fp32",
        )  # fmt: skip
        rows = [{"step": i, "tokens": i, "val_loss": v} for i, v in enumerate(losses)]
        files = directory.run(own.id)
        files.path.mkdir(parents=True)
        for row in rows:
            files.append_metrics(row)
        return run_of(own, Trained(files, {"state": state, "step": 4}, meta))

    runs = [
        run("ppt", "nca", 2, "diverged"), run("pt", "scratch", 0, "done", (3.0, 2.0)), run("pt", "scratch", 1, "done", (3.0, float("nan"))),
        run("pt", "scratch", 2, "stopped", (3.0,)), run("pt", "nca", 0, "done", (3.0, 1.5)), run("pt", "nca", 1, "diverged", (3.0,)),
    ]  # fmt: skip
    return directory, config, runs


def test_a_loss_that_is_no_number_loses_the_run_by_name(study):
    found = final_losses(*study[:1], study[2], study[1])
    assert dict(zip(found.rows.run, found.rows.value, strict=True)) == {"pt.scratch.s0": 2.0, "pt.nca.s0": 1.5}
    assert found.lost == {
        ("scratch", "web", 1): "pt.scratch.s1", ("nca", "web", 1): "pt.nca.s1",
        # without its pre-pre-training neither the regime nor the arm that shares it can ever begin
        ("nca", "web", 2): "ppt.nca.s2", ("no-attn", "web", 2): "ppt.nca.s2",
    }  # fmt: skip
    assert ("scratch", "web", 2) not in found.lost  # stopped: it can go on


def test_without_fine_tuning_there_are_no_accuracies(study):
    import pandas as pd

    assert accuracies(study[2], study[1], pd.DataFrame({"run": [], "accuracy": []})) is None


def test_flops_count_the_rows_that_are_multiplied(study):
    run = study[2][1]
    wide = replace(run, config=run.config.model_copy(update={"config": STAGE.model_copy(update={"vocab_rows": 500})}))
    assert run.vocab_rows == TokenFile.open(study[0].tokens / "t").meta.vocab_size
    assert (wide.vocab_rows, wide.flops_per_token) == (500, MODEL.flops_per_token(500))
    assert wide.flops > run.flops
