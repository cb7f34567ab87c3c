"""Costs: what --dry-run promises is what lies on the disk, and a plan that does not fit is refused."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections import namedtuple

import pytest
from tokenizers import Tokenizer, models

from nca_interp import discover
from nca_interp.base import RunFailed
from nca_interp.cli import running as cli_running
from nca_interp.data.specs import TextSpec, TokenizerSpec
from nca_interp.data.text import prepare
from nca_interp.data.text.named_tokenizer import known_vocabulary
from nca_interp.engine.cost import disk_cost, memory, print_plan, run_cost, size
from nca_interp.engine.plan import make_plan
from nca_interp.engine.vocabulary import spec_vocab, unknown_tokenizers
from nca_interp.model.presets import PRESETS
from nca_interp.overrides import call_recipe
from nca_interp.train.loop import train
from tests.train.conftest import SPEC, make_run, study  # noqa: F401


def folder_bytes(path):
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


@pytest.mark.parametrize("width", [32, 256])
def test_disk_is_what_was_promised(study, width):  # noqa: F811
    run = make_run(steps=4, checkpoint_every=2, state_steps=(2,))
    model = run.model.model_copy(update={"d_model": width, "d_mlp": 2 * width})
    run = run.model_copy(update={"model": model, "source": SPEC.model_dump(mode="json")})
    train(study, run)
    directory, cost = study.run(run.id), run_cost(run)
    assert cost.checkpoints == len(directory.steps())
    for step in directory.steps():
        assert folder_bytes(directory.checkpoint(step)) == pytest.approx(cost.checkpoint, rel=0.02, abs=4000)
    assert directory.state_steps() == [2]
    assert folder_bytes(directory.state(2)) == pytest.approx(cost.state, rel=0.02, abs=8000)
    assert folder_bytes(directory.path) == pytest.approx(cost.disk, rel=0.05, abs=20_000)


def test_a_study_of_200_checkpoints_stays_small():
    """Four bytes a parameter for each checkpoint, twelve only for the states of runs that train now."""
    run = make_run(steps=200_000, checkpoint_every=1100)
    cost = run_cost(run)
    assert cost.checkpoints > 190
    assert cost.disk == cost.checkpoints * cost.checkpoint
    assert cost.extra_while_running == 3 * cost.state < 0.05 * cost.disk + 3 * 8000


def test_memory_grows_as_the_formula_says():
    model, vocab = PRESETS["small"], 2048
    one, two = (memory(model, vocab, rows, "fp32") for rows in (1, 2))
    assert 16 * model.n_params(vocab) < one < two < 2 * one
    assert memory(model, vocab, 8, "bf16") < memory(model, vocab, 8, "fp32")


def test_a_plan_that_does_not_fit_is_refused_before_it_starts(tmp_path, monkeypatch):
    recipe = discover.find("runs", "smoke").value()
    plan = make_plan(recipe, "fp32", "scratch", "web", 0, analyze=False)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, disk_cost(plan, 1).peak - 1))
    with pytest.raises(RunFailed, match=r"the plan needs .* MB, .* MB are free \(details: --dry-run\)"):
        cli_running.run_plan(tmp_path / "s", recipe, plan, 1, 1)
    assert not list(tmp_path.iterdir())  # so that it is refused the next time as well


def test_sizes_are_read_at_a_glance():
    assert [size(n) for n in (900, 12_345, 3.4e6, 123.4e6, 56e9, 1.2e12)] == [
        "1 kB",
        "12 kB",
        "3.4 MB",
        "123 MB",
        "56.0 GB",
        "1.2 TB",
    ]


def test_the_scaling_page_is_that_of_the_benchmark(root):
    spec = importlib.util.spec_from_file_location("scaling", root / "benchmarks" / "scaling.py")
    scaling = importlib.util.module_from_spec(spec)
    sys.modules["scaling"] = scaling
    spec.loader.exec_module(scaling)
    page = scaling.PAGE.read_text()
    assert scaling.filled(page) == page, "run: python benchmarks/scaling.py"


def test_a_named_tokenizer_costs_what_it_has(tmp_path, monkeypatch, capsys):
    """Of a folder the largest id counts, holes and added tokens included; what is not on this machine is said."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    peaks = {}
    for n in (400, 70_000):
        tokenizer = Tokenizer(models.BPE(vocab={f"t{i}": i for i in range(n - 2)}, merges=[]))
        tokenizer.add_special_tokens(["<a>", "</s>"])
        folder = tmp_path / str(n)
        folder.mkdir()
        tokenizer.save(str(folder / "tokenizer.json"))
        peaks[n] = _plan_of(str(folder))
        assert known_vocabulary(str(folder)) == spec_vocab(peaks[n].runs[0].source) == n
        assert unknown_tokenizers(peaks[n]) == []
    parameters = [run_cost(plan.runs[0]).parameters for plan in peaks.values()]
    assert parameters[1] - parameters[0] == 2 * (70_000 - 400) * peaks[400].study.model.d_model
    tokens = [disk_cost(plan, 1).tokens for plan in peaks.values()]
    assert tokens[1] == 2 * tokens[0], "above 65,536 a token takes four bytes"
    assert known_vocabulary("gpt2") == 50_257
    assert known_vocabulary("nobody/nothing") is None
    plan = _plan_of("nobody/nothing")
    assert unknown_tokenizers(plan) == ["nobody/nothing"]
    print_plan(plan, tmp_path, 1, 1)
    assert "tokenizer 'nobody/nothing' is not on this machine: 50,257 tokens are assumed" in capsys.readouterr().out
    print_plan(peaks[400], tmp_path, 1, 1)
    assert "assumed" not in capsys.readouterr().out


def _plan_of(tokenizer):
    chosen = f'domains.web.source.tokenizer={{kind="hf",name="{tokenizer}",vocab_size=1024}}'
    recipe = call_recipe(discover.find("runs", "smoke").value, [chosen])
    return make_plan(recipe, "fp32", "scratch", "web", 0, analyze=False)


def test_a_damaged_tokenizer_is_unknown_and_data_prepare_counts_its_bytes_right(tmp_path, monkeypatch):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "tokenizer.json").write_text("{")
    assert known_vocabulary(str(tmp_path / "bad")) is None
    Tokenizer(models.BPE(vocab={f"t{i}": i for i in range(70_000)}, merges=[])).save(str(tmp_path / "tokenizer.json"))
    spec = TextSpec(source="hf:c4", tokenizer=TokenizerSpec(kind="hf", name=str(tmp_path)))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 4 * 1100 - 1))
    with pytest.raises(RunFailed, match="the tokens need"):
        prepare._check_disk(tmp_path / "out", spec, [9, 1], 109)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 4 * 1100))
    prepare._check_disk(tmp_path / "out", spec, [9, 1], 109)
