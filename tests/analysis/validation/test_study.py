"""Verdicts on checkpoints from elsewhere: planted effects, lost runs, other tokens, and the whole command."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from nca_interp.analysis.collection.run import Run
from nca_interp.analysis.validation.study import _comparable, contrasts
from tests.analysis.models import letter_tokenizer, tiny
from tests.cli.test_app import call


def planted(effect: float, seeds: int = 4, rows: int = 200, lost: tuple[str, int] | None = None):
    """Regimes `mine` and `scratch`: `mine` is lower by `effect` nats a token, the same text in both."""
    rng = np.random.default_rng(0)
    text = rng.normal(3.0, 0.5, rows)
    runs, ends = [], {}
    for seed in range(seeds):
        for regime in ("scratch", "mine"):
            name = f"{regime}{seed}"
            runs.append(Run(name, None, regime=regime, seed=seed))
            value = text + rng.normal(0, 0.02) - effect * (regime == "mine")
            frame = pd.DataFrame({"nll": value * 10, "targets": 10})
            if lost == (regime, seed):
                frame.nll = np.nan
            frame.attrs = {"margin": 0.01, "rows_sha256": "a"}
            ends[name] = frame
    return SimpleNamespace(runs=runs, roles={"scratch": "regime", "mine": "regime"}, domains={}), ends


def test_a_planted_effect_gets_the_verdict_of_a_study_marked_as_exploration():
    tables = contrasts(*planted(0.5))
    row = tables["contrasts"].iloc[0]
    assert (row.treated, row.control, row.n) == ("mine", "scratch", 4)
    assert row.effect == pytest.approx(-0.5, abs=0.05)
    assert row.verdict == "better (exploratory)"
    assert "No plan was fixed before these results" in row.sentence
    assert row.p_holm < 0.05
    assert len(tables["pairs"]) == 4


def test_no_effect_and_one_seed_get_none():
    assert contrasts(*planted(0.0))["contrasts"].verdict[0].startswith(("inconclusive", "cannot tell", "equivalent"))
    one = contrasts(*planted(0.5, seeds=1))["contrasts"].iloc[0]
    assert "no verdict is possible" in one.sentence


def test_several_regimes_are_corrected_for_together():
    collection, ends = planted(0.5)
    third = [Run(f"other{s}", None, regime="other", seed=s) for s in range(4)]
    ends |= {run.id: ends[f"scratch{run.seed}"].copy() for run in third}
    for run in third:
        ends[run.id].attrs = ends["scratch0"].attrs
    collection.runs += third
    collection.roles["other"] = "regime"
    assert contrasts(collection, ends)["contrasts"].comparisons.tolist() == [2, 2]


def test_a_lost_run_is_dropped_by_name_with_its_pair():
    row = contrasts(*planted(0.5, lost=("mine", 2)))["contrasts"].iloc[0]
    assert (row.n, row.planned) == (3, 4)
    assert "mine2" in row.lost
    assert row.verdict.startswith("cannot tell")


def test_without_shared_seeds_there_is_no_contrast():
    collection, ends = planted(0.5)
    only = {name: frame for name, frame in ends.items() if name.startswith("mine") or name == "scratch9"}
    assert contrasts(collection, only)["contrasts"].empty
    assert contrasts(collection, {})["contrasts"].empty


def test_other_tokens_are_left_out_and_said():
    collection, ends = planted(0.5)
    ends["mine3"].attrs = {"margin": 0.01, "rows_sha256": "b"}
    same, said = _comparable(collection, ends)
    assert set(ends) - set(same) == {"mine3"}
    assert said[0][0] == "mine3"


def test_the_command_measures_losses_and_ends_in_a_report(tmp_path):
    entries = []
    for seed in range(2):
        for regime in ("mine", "scratch"):
            folder = tmp_path / f"{regime}{seed}"
            model = tiny("llama")
            torch.manual_seed(10 * seed + len(regime))
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.05 * torch.randn_like(parameter))
            model.save_pretrained(folder)
            letter_tokenizer(folder, 97)
            entries.append(f"  - {{path: {folder.name}, label: {folder.name}, regime: {regime}, seed: {seed}}}")
    (tmp_path / "all.yaml").write_text("checkpoints:\n" + "\n".join(entries) + "\n")
    (tmp_path / "own.txt").write_text("abcdefghij" * 100)
    done = call(
        "analyze", "--checkpoint", "all.yaml", "--out", "out", "--only", "val-loss", "--tokens", "own.txt", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    losses = pd.read_csv(tmp_path / "out/tables/val_losses.csv")
    assert losses.val_loss.nunique() == 4
    from transformers import AutoModelForCausalLM

    from nca_interp.analysis.stimuli.text import read_text, rows_of

    rows = torch.as_tensor(
        np.asarray(rows_of(read_text(tmp_path / "own.txt"), tmp_path / "mine1", 97)).astype(np.int64)
    )
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "mine1").eval()
    with torch.no_grad():
        expected = F.cross_entropy(model(rows[:, :-1]).logits.flatten(0, 1), rows[:, 1:].flatten())
    assert losses[losses.run == "mine.s1"].val_loss.item() == pytest.approx(expected.item(), rel=1e-4)
    found = pd.read_csv(tmp_path / "out/tables/contrasts.csv").iloc[0]
    assert (found.treated, found.control, found.n) == ("mine", "scratch", 2)
    assert "exploratory" in (tmp_path / "out/report.html").read_text()
