"""Anything at all on the command line and in a recipe: exit code 0 or 2, one message without traceback, nothing written.

What starts no work is fuzzed: `train --dry-run`, `list`, and commands that end at their checks, because the study, source
or checkpoint that they are given is not there.
"""

from __future__ import annotations

import contextlib
import io
import sys

import pytest
import typer
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from nca_interp import config, discover, machine
from nca_interp.cli import app as cli
from nca_interp.cli.app import call

LOAD = discover.load
QUICK = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture], "database": None}
ODD = [
    "", " ", "x", "é", "²", "-1", "0", "1", "7", "1e999", "nan", "true", "null", "none", "[]", "[[1]]", "{}", "[1,2]", "0.5", "1" * 30,
    "9" * 5000, "[" * 3000, "a" * 300, "a/" * 2500, "..", ".", "/", "'", '"', "1\n2", "x\ny=1", "=", "a=b", "a.b=c", "--", "-", "-x",
    "\udcff", "[[", "meta", "cpu:99", "cuda", "2020-01-01", "1_0", "+1", "0x10", "-0", "\x00", "*", "nca", "smoke", "site:prose-a",
]  # fmt: skip
values = st.sampled_from(ODD) | st.text(max_size=12)
fields = st.sampled_from([
    "title", "name", "model", "model.n_layers", "model.n_heads", "model.d_model", "model.d_head", "model.n_ctx", "model.tied",
    "model.rope_base", "model.init_std", "regimes", "regimes.nca", "regimes.nca.name", "regimes.nca.source", "regimes.nca.keep",
    "regimes.nca.source.band", "regimes.nca.source.where", "regimes.nca.source.where.activity", "regimes.nca.source.n_states",
    "regimes.nca.graft", "regimes.nca.graft.parts", "regimes.nca.graft.layers", "regimes.nca.graft.heads", "regimes.nca.graft.matched",
    "regimes.nca.graft.instead", "regimes.nca.graft.donor", "regimes.nca.graft.mode", "regimes.nca.lr_factor", "regimes.scratch.adds",
    "regimes.nca.source.patch", "regimes.nca.source.grid", "regimes.nca.runs", "regimes.nca.runs.web", "regimes.0.label",
    "regimes.²", "domains", "domains.web.source.source", "domains.web.source.tokenizer", "domains.web.source.tokenizer.vocab_size",
    "domains.web.qa", "domains.web.pt", "seeds", "seeds.0", "seeds.0.init", "seeds.0.rules", "ppt", "pt", "ft", "pt.lr", "pt.steps",
    "pt.batch_size", "pt.micro_batch", "pt.betas", "pt.betas.0", "pt.horizon", "pt.warmup", "pt.state_steps", "pt.vocab_rows",
    "pt.checkpoint_every", "pt.eval_every", "precision", "compile", "val_rows", "margin", "deviations", "deviations.0",
])  # fmt: skip
settings_ = st.tuples(fields | values, values).map("=".join)


def joined(parts) -> list[str]:
    """One list of several."""
    return [word for part in parts for word in part]


def typed(*options: str) -> st.SearchStrategy[list[str]]:
    """Some of these options with odd values."""
    option = st.sampled_from(options)
    one = st.tuples(option, values).map(list) | st.tuples(option, values).map(lambda pair: ["=".join(pair)])
    return st.lists(one | option.map(lambda name: [name]), max_size=3).map(joined)


sets = st.lists(settings_.map(lambda text: ["--set", text]), max_size=2).map(joined)
lines = st.one_of(
    st.tuples(
        st.just(["train", "smoke", "--dry-run"]), sets,
        typed("--regime", "--domain", "--seed", "--out", "--workers", "--threads", "--device", "--track", "--set", "--nothing"),
    ),
    st.tuples(st.just(["train"]), values.map(lambda v: [v, "--dry-run"]), typed("--regime", "--set")),
    st.tuples(st.just(["analyze", "--checkpoint", "absent"]), typed(
        "--probe", "--probes", "--tokens", "--tokenizer", "--random", "--device", "--dtype", "--table", "--causes", "--inference",
        "--compare", "--workers", "--threads",
    )),
    st.tuples(st.just(["analyze"]), values.map(lambda v: [f"absent{v}"]), typed("--probes", "--random", "--workers", "--causes")),
    st.tuples(st.sampled_from([["report"], ["view"], ["watch"]]), values.map(lambda v: [f"absent{v}"]), typed("--name", "--json")),
    st.tuples(st.just(["data", "inspect", "files:absent.txt"]), sets, typed("--n", "--length", "--seed", "--out", "--threads")),
    st.tuples(
        st.just(["data", "prepare", "files:absent.txt"]), sets,
        typed("--out", "--seq-len", "--tokens", "--val-tokens", "--tokenizer", "--seed", "--threads"),
    ),
    st.tuples(
        st.just(["match", "files:absent.txt"]), sets,
        typed("--grid", "--footing", "--rows", "--study", "--json", "--csv", "--recipe", "--out", "--seed", "--threads"),
    ),
    st.tuples(st.sampled_from([["data"], ["list"], ["doctor"], ["demo"], []]), values.map(lambda v: [f"-{v}"])),
).map(joined)  # fmt: skip


def told(arguments: list[str]) -> tuple[int, str]:
    """Exit code and stderr of a command line in this process."""
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        try:
            code = call(arguments)
        except SystemExit as error:
            code = int(error.code or 0)
    return code, errors.getvalue()


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """An empty working folder; what every command line would do over again is done once."""
    monkeypatch.chdir(tmp_path)
    recipes, load = discover.load("runs"), discover.load
    monkeypatch.setattr(
        discover, "load", lambda kind, *rest, **more: recipes if kind == "runs" else load(kind, *rest, **more)
    )
    monkeypatch.setattr(machine, "matmul_flops", lambda precision, threads=1: 1e9)
    monkeypatch.setattr(cli, "app", typer.main.get_command(cli.app))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return tmp_path


def check(arguments: list[str], folder) -> None:
    code, errors = told(arguments)
    assert code in (0, 2), (arguments, code, errors)
    assert "Traceback" not in errors, (arguments, errors)
    assert code == 0 or errors.strip(), arguments
    assert list(folder.iterdir()) == [], arguments


@seed(10)
@settings(max_examples=120, **QUICK)
@given(line=lines)
def test_any_command_line_ends_with_0_or_2(empty, line):
    check(line, empty)


RECIPE = """
from nca_interp import Domain, ModelConfig, Regime, Seeds, StageConfig, Study, run
from nca_interp.data.specs import DyckSpec, NcaSpec, QaSpec, TextSpec
from nca_interp.discover import find

@run
def odd():
    study = find("runs", "smoke").value()
    return {result}
"""
literals = st.sampled_from([
    "None", "True", "False", "-1", "0", "3", "10**400", "2.5", "-0.0", "float('inf')", "float('nan')", "1e-400", "''", "'x'", "'é' * 300",
    "'\\udcff'", "b'x'", "()", "[]", "{}", "[1, 'a']", "{'a': 1}", "{1: 2}", "object()", "len", "study", "study.pt", "study.regimes", "exit(0)",
    "exit('no')", "1 / 0", "unknown", "lambda: 1", "[[[1]]]", "range(3)", "{'name': 'x'}", "set()", "10**400 * 1.5", "quit()",
])  # fmt: skip
names = st.sampled_from([*config.Study.model_fields, "nothing"])
stage = st.sampled_from([*config.StageConfig.model_fields, "nothing"])
shape = st.sampled_from([*config.ModelConfig.model_fields, "nothing"])
results = st.one_of(
    literals,
    st.builds("study.model_copy(update={{'{}': {}}})".format, names, literals),
    st.builds("study.model_copy(update={{'pt': study.pt.model_copy(update={{'{}': {}}})}})".format, stage, literals),
    st.builds("study.model_copy(update={{'model': study.model.model_copy(update={{'{}': {}}})}})".format, shape, literals),
    st.builds("Study(**{{**dict(study), '{}': {}}})".format, names, literals),
    st.builds("StageConfig(**{{**dict(study.pt), '{}': {}}})".format, stage, literals),
    st.builds("study.model_copy(update={{'regimes': (Regime(name='a', label='a', source=NcaSpec(band={})),)}})".format, literals),
    st.builds("study.model_copy(update={{'seeds': (Seeds(init={0}, order=0, rules=0),)}})".format, literals),
)  # fmt: skip


@seed(10)
@settings(max_examples=80, **QUICK)
@given(result=results)
def test_any_recipe_is_planned_or_refused_with_its_name(empty, monkeypatch, result):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    smoke, find = discover.load("runs")["smoke"], discover.find
    monkeypatch.setattr(discover, "load", LOAD)
    monkeypatch.setattr(discover, "find", lambda kind, name: smoke if name == "smoke" else find(kind, name))
    (empty / "runs").mkdir(exist_ok=True)
    recipe = empty / "runs" / "odd.py"
    recipe.write_text(RECIPE.replace("{result}", result))
    code, errors = told(["train", "odd", "--dry-run"])
    assert code in (0, 2), (result, code, errors)
    assert "Traceback" not in errors, (result, errors)
    assert code == 0 or errors.startswith("error: "), (result, errors)
    if "exit(" in result or "quit(" in result or "unknown" in result:
        assert f"{recipe}:9: " in errors, (result, errors)
    assert sorted(p.name for p in empty.rglob("*")) == ["odd.py", "runs"]
