"""`nca-interp transfer`: from a folder of weights to tables and a report, and one clear message for each mistake."""

from __future__ import annotations

import json
import os
import re

import pandas as pd
import pytest

from nca_interp.cli.app import call
from tests.cli.test_app import call as in_a_process
from tests.model.families import saved

TEXT = "\n\n".join(
    f"The number {i} comes after the number {i - 1} and before the number {i + 1}, as every child that counts could tell."
    for i in range(1, 3000)
)
QUICK = [
    "--steps", "4", "--seeds", "2", "--workers", "1", "--set", "model.n_ctx=48", "--set", "pt.batch_size=4", "--set", "val_rows=8",
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with checkpoints by family, and a text."""
    folder = tmp_path_factory.mktemp("transfer")
    for family in ("gpt2", "neox", "qwen3"):
        saved(family, folder / family)
    saved("neox", folder / "neox-again", seed=1)
    (folder / "text.txt").write_text(TEXT)
    return folder


def asked(place, family, out, *more):
    return [
        "transfer",
        "--checkpoint",
        str(place / family),
        "--text",
        str(place / "text.txt"),
        "--out",
        str(out),
        *QUICK,
        *more,
    ]


def trained(arguments):
    """What the command says that trains in processes of its own."""
    result = in_a_process(*arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_it_trains_the_arms_and_ends_in_tables_and_a_report(place, tmp_path):
    family = "gpt2"
    out = tmp_path / "out"
    said = trained(asked(place, family, out, "--arms", "reinit-attn,keep-attn"))
    assert "it has no tokenizer, and needs none" in said
    assert "in transformers (slower than the fast one" in said
    runs = pd.read_csv(out / "tables" / "runs.csv", keep_default_na=False)
    assert sorted(set(runs.regime)) == ["full", "full-keep-attn", "full-reinit-attn", "scratch"]
    assert set(runs.state) == {"done"}
    assert set(runs[runs.regime == "full"].parent) == {str((place / family).resolve())}
    assert set(runs[runs.regime == "scratch"].parent) == {""}
    assert runs.params.nunique() == 1
    contrasts = pd.read_csv(out / "tables" / "contrasts.csv")
    assert ["full", "scratch"] in contrasts[["treated", "control"]].values.tolist()
    assert len(pd.read_csv(out / "tables" / "probes.csv")) > 0
    start = pd.read_csv(out / "tables" / "start.csv")
    assert {"resid_rms", "loss", "grad_norm_attn"} <= set(start.quantity)
    page = (out / "report.html").read_text()
    assert "One parent: all seeds of full transfer" in page
    assert "counted nowhere" in page
    plan = json.loads((out / "plan.json").read_text())["plan"]
    assert plan["replicates"]["full"] == "data order and fresh embeddings of one checkpoint"
    assert "scratch" not in plan["replicates"]
    before = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/checkpoints/*/*.safetensors")}
    trained(asked(place, family, out, "--arms", "reinit-attn,keep-attn"))
    assert before == {path: path.stat().st_mtime_ns for path in before}, "nothing is trained twice"


def test_several_checkpoints_are_one_seed_each(place, tmp_path):
    out, more = tmp_path / "out", ["--checkpoint", str(place / "neox-again"), "--arms", "full"]
    trained(asked(place, "neox", out, *more))
    parents = pd.read_csv(out / "tables" / "runs.csv").query("regime == 'full'").set_index("seed").parent
    assert [os.path.basename(parents[seed]) for seed in (0, 1)] == ["neox", "neox-again"]
    assert (
        "Each seed of full transfer from 2 checkpoints starts from a checkpoint of its own"
        in (out / "report.html").read_text()
    )


def test_a_dry_run_shows_arms_tokens_and_cost_and_writes_nothing(place, tmp_path, capfd):
    out = tmp_path / "out"
    assert call(asked(place, "gpt2", out, "--dry-run")) == 0
    said = capfd.readouterr().out
    for arm in (
        "scratch",
        "full",
        "full-reinit-attn",
        "full-reinit-mlp",
        "full-reinit-norm",
        "full-keep-attn",
        "full-published",
    ):
        assert re.search(rf"^ *{arm} ", said, re.MULTILINE), arm
    for line in (
        "forward     the own forward pass of gpt2",
        "runs        16 (16 pre-training)",
        "time        about",
        "seeds       differ by",
    ):
        assert line in said
    assert not out.exists()


def mistakes(place):
    gpt2, text = ["--checkpoint", str(place / "gpt2")], ["--text", str(place / "text.txt")]
    return {
        "no checkpoint": (["--checkpoint", str(place / "nowhere")], "no such checkpoint directory"),
        "no folder of one": (["--checkpoint", str(place)], "no checkpoint itself; inside: "),
        "no such name on the hub": (["--checkpoint", "org/nothing", *text], "the Hugging Face hub does not give it"),
        "no such domain": ([*gpt2, "--domain", "wep"], "--domain wep: recipe 'laptop' has no domain 'wep'; did you mean 'web'?"),
        "no such recipe": ([*gpt2, "--domain", "laptpo.web"], "did you mean 'laptop'?"),
        "no such arm": ([*gpt2, *text, "--arms", "reinit-atn"], "unknown arm; did you mean 'reinit-attn'?"),
        "two languages": ([*gpt2, *text, "--domain", "web"], "both name the language"),
        "no such text": ([*gpt2, "--text", str(place / "none.txt")], "none.txt: no such file"),
        "a checkpoint twice": ([*gpt2, *gpt2, *text], "is named twice"),
        "seeds and checkpoints": ([*gpt2, "--checkpoint", str(place / "neox"), *text, "--seeds", "3"], "--seeds: 3 with 2 checkpoints"),
        "two families": ([*gpt2, "--checkpoint", str(place / "neox"), *text], "model.architecture.config.model_type is 'gpt2' in the study, 'gpt_neox' in the checkpoint"),
        "another width": ([*gpt2, *text, "--set", "model.d_mlp=64"], "model.d_mlp is 64 in the study, 48 in the checkpoint"),
        "too long a context": ([*gpt2, *text, "--set", "model.n_ctx=128"], "model.n_ctx is 128 in the study, 64 in the checkpoint"),
        "into the checkpoint": ([*gpt2, *text, "--out", str(place / "gpt2" / "out")], "which this command reads"),
    }  # fmt: skip


@pytest.mark.parametrize("mistake", list(mistakes(__import__("pathlib").Path("x"))))
def test_one_clear_message_before_anything_is_written(place, tmp_path, capfd, monkeypatch, mistake):
    monkeypatch.chdir(tmp_path)
    arguments, told = mistakes(place)[mistake]
    assert call(["transfer", *arguments]) == 2
    said = capfd.readouterr().err
    assert said.startswith("error: ")
    assert told in said
    assert list(tmp_path.iterdir()) == []


RECIPE = """
from nca_interp.checkpoint_spec import CheckpointSpec
from nca_interp.config import Domain, Regime, StageConfig, Study, paired_seeds, reinit_arms
from nca_interp.data.specs import DyckSpec, TextSpec, TokenizerSpec
from nca_interp.discover import run
from nca_interp.model.parent import parent_of

A, B = {paths}


@run
def mine() -> Study:
    \"\"\"Theirs and ours.\"\"\"
    stage = StageConfig(steps=4, batch_size=4, lr=1e-3)
    theirs = Regime(name="theirs", label="theirs", source=CheckpointSpec(paths=(A, B)))
    return Study(
        name="mine", title="Theirs and ours", model=parent_of(A).model,
        regimes=(
            Regime(name="scratch", label="scratch"), theirs, *reinit_arms(theirs, None),
            Regime(name="dyck", label="Dyck", source=DyckSpec(k=8, max_depth=4)),
        ),
        domains=(Domain(name="web", label="text", source=TextSpec(source="files:{text}", tokenizer=TokenizerSpec(vocab_size=300))),),
        seeds=paired_seeds(2), ppt=stage, pt=stage, val_rows=8,
    )
"""


def test_a_recipe_says_the_same_with_synthetic_regimes_of_that_architecture_beside_it(
    place, tmp_path, capfd, monkeypatch
):
    paths = str((str(place / "neox"), str(place / "neox-again")))
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine.py").write_text(RECIPE.format(paths=paths, text=place / "text.txt"))
    monkeypatch.chdir(tmp_path)
    assert call(["train", "mine", "--dry-run"]) == 0
    said = capfd.readouterr().out
    assert "runs        14 (12 pre-training, 2 pre-pre-training)" in said
    assert "forward     the own forward pass of gpt_neox" in said
    for change, told in (
        ("model.n_layers=3", "model.n_layers is 3 in the study, 2 in the checkpoint"),
        ("model.tied=true", "model.tied is True in the study, False in the checkpoint"),
        ("regimes.theirs.source.paths=['a', 'b', 'c']", "3 checkpoints for 2 seeds"),
        ("regimes.theirs.swap.embed=keep", "whose tokenizer is not that of a checkpoint (kind hf)"),
        ("regimes.scratch.adds=theirs", "'theirs' is no regime with a pre-pre-training"),
    ):
        assert call(["train", "mine", "--dry-run", "--set", change]) == 2, change
        assert told in capfd.readouterr().err
    assert not (tmp_path / "runs" / "out").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused(place, tmp_path, capfd):
    tmp_path.chmod(0o500)
    assert call(asked(place, "gpt2", tmp_path / "out")) == 2
    assert "--out" in capfd.readouterr().err
