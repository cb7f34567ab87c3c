"""`match` from source to recipe: planted automata, texts of known nature, the numbers that come with the package, the CLI."""

from __future__ import annotations

import json
import re
import string

import numpy as np
import pytest

from nca_interp.analysis.complexity.calibration import rows_of
from nca_interp.analysis.matching.evidence import HYPOTHESIS, own_evidence
from nca_interp.analysis.matching.grid import (
    FILE,
    Cell,
    default_bands,
    key,
    known,
    make_cells,
    measure,
    reference_cells,
    shipped,
)
from nca_interp.analysis.matching.matching import value_of
from nca_interp.analysis.matching.recipe import regimes, run_name
from nca_interp.analysis.matching.run import rests_on, run
from nca_interp.config import Regime, Study
from nca_interp.data.specs import DyckSpec, NcaSpec, TextSpec
from nca_interp.discover import find
from nca_interp.store import read_json
from tests.cli.test_app import call

LEVELS = [level for level, _ in default_bands(NcaSpec())]
LOWEST, HIGHEST = LEVELS[0], LEVELS[-1]


def cell(n_states, level, dt=1):
    return next(c for c in make_cells([f"n_states={n_states}", f"dt={dt}"]) if c.level == level)


def corpus(folder, documents, name="corpus"):
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in documents))
    return path


def letters(n=30, alphabet=string.ascii_lowercase, size=6000):
    rng = np.random.default_rng(0)
    return ["".join(rng.choice(list(alphabet), size)) for _ in range(n)]


def found(path, **options):
    return run("corpus", TextSpec(source=f"files:{path}"), **options).match


def test_the_package_holds_every_cell_of_the_default_grid():
    for footing in ("symbols", "tokens"):
        names = {key(spec, footing) for spec in (*reference_cells(), *(c.spec for c in make_cells()))}
        assert names <= shipped().keys()
    assert len(shipped()) == len(read_json(FILE)["cells"])


@pytest.mark.parametrize(
    ("footing", "wanted"),
    [("symbols", cell(2, "40-60 %")), ("tokens", cell(8, "60-80 %", 2))],
)
def test_the_numbers_in_the_package_are_what_this_code_gives(footing, wanted: Cell):
    """Where this fails, the generator or a coordinate has changed: python benchmarks/match_grid.py"""
    fresh, stored = measure(wanted.spec, footing, 1), known(key(wanted.spec, footing))
    assert fresh["spec"] == stored["spec"]
    np.testing.assert_allclose(np.array(fresh["mean"], float), np.array(stored["mean"], float), rtol=1e-5)
    np.testing.assert_allclose(np.array(fresh["cov"], float), np.array(stored["cov"], float), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("true", [cell(2, "40-60 %"), cell(4, "20-40 %", 4), cell(8, "60-80 %"), cell(15, "80-100 %")])
def test_automata_written_as_text_are_found_again(tmp_path, true: Cell):
    """Fresh rules, a character a cell: the level is right, and the cell is among those that cannot be told apart."""
    drawn = rows_of(true.spec, "symbols", 48, split="planted in a test", threads=1).sample
    digits = np.array(list(string.digits + string.ascii_letters))
    texts = ["".join(digits[f.ravel()]) for f in drawn.frames]
    match = found(corpus(tmp_path, texts))
    assert match.nearest.level == true.level
    assert true.name in match.tied
    assert match.resembles


def test_an_automaton_as_a_source_is_found_again():
    true = cell(10, "40-60 %", 4)
    match = run("nca", true.spec, n=64, threads=1).match
    assert (match.nearest.level, match.nearest.spec.n_states) == (true.level, 10)
    assert true.name in match.tied


def test_random_letters_are_the_most_complex_and_like_no_automaton(tmp_path):
    match = found(corpus(tmp_path, letters()))
    assert match.nearest.level == HIGHEST
    assert match.settings[0].verdict == "clear"
    assert not match.resembles


@pytest.mark.parametrize("kind", ["constant", "repeated"])
def test_constant_and_repeated_texts_are_the_least_complex(tmp_path, kind):
    names = string.ascii_letters
    texts = [c * (5000 + i) for i, c in enumerate(names)]
    if kind == "repeated":
        texts = [
            f"the {a}{b} sat on the mat and saw another {b}{a}. " * 130 for a, b in zip(names, names[::-1], strict=True)
        ]
    match = found(corpus(tmp_path, texts))
    assert match.nearest.level == LOWEST
    if kind == "constant":
        assert match.edge == "below"
        assert [s.verdict for s in match.settings] == ["clear", "inconclusive", "inconclusive"]


def test_shuffling_the_letters_of_a_text_raises_its_complexity(tmp_path):
    """The unigram entropy, and nothing else, stays: what `match` measures is not order-blind."""
    rng = np.random.default_rng(1)
    words = ["river", "table", "green", "seven", "cloud", "paper", "north", "glass"]
    texts = [" ".join(rng.choice(words, 1000)) for _ in range(30)]
    plain = found(corpus(tmp_path, texts, "plain"))
    mixed = found(corpus(tmp_path, ["".join(rng.permutation(list(t))) for t in texts], "mixed"))
    low, high = (m.coordinates.set_index("coordinate").corpus for m in (plain, mixed))
    assert low.entropy == pytest.approx(high.entropy, abs=0.01)
    for name in ("gzip", "lempel_ziv", "conditional_entropy"):
        assert high[name] > low[name] + 0.1
    assert LEVELS.index(mixed.nearest.level) > LEVELS.index(plain.nearest.level)


def test_a_cell_outside_the_package_is_measured_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("NCA_INTERP_CACHE", str(tmp_path / "cache"))
    path = corpus(tmp_path, letters())
    said = []
    options = {"axes": ["n_states=2", "dt=1", "band=0.15:0.25,2:3"], "report": lambda what, done: said.append(what)}
    first = run("corpus", TextSpec(source=f"files:{path}"), **options)
    assert any("measuring" in what for what in said)
    assert [c.name for c, _ in first.match.unreachable] == ["2 states, band 2-3, dT 1"]
    assert "out of reach" in first.match.unreachable[0][1]
    said.clear()
    assert run("corpus", TextSpec(source=f"files:{path}"), **options).json() == first.json()
    assert not any("measuring" in what for what in said)


def test_the_same_call_gives_the_same_numbers_and_another_seed_others(tmp_path):
    path = corpus(tmp_path, letters(40))
    spec = TextSpec(source=f"files:{path}")
    a, b, c = (run("corpus", spec, n=16, seed=s).json() for s in (0, 0, 1))
    assert a == b
    assert a["distance"] != c["distance"]
    json.dumps(a, allow_nan=False)


def test_the_recommendation_is_code_that_runs(tmp_path):
    path = corpus(tmp_path, letters())
    result = run('a "hostile" \n label', TextSpec(source=f"files:{path}"))
    names: dict = {}
    exec(regimes(result.match), names)
    matched = names["MATCHED"]
    assert isinstance(matched, Regime)
    assert matched.source == result.match.nearest.spec
    assert [r.source.n_states for r in names["OTHERS"]] == [matched.source.n_states] * 4
    assert len({r.source.band for r in (matched, *names["OTHERS"])}) == len(LEVELS)
    (tmp_path / "elsewhere" / "runs").mkdir(parents=True)
    (tmp_path / "elsewhere" / "runs" / "matched.py").write_text(result.recipe)
    plan = call("train", "matched-a-hostile-label", "--dry-run", cwd=tmp_path / "elsewhere")
    assert plan.returncode == 0, plan.stderr
    for planned in ("ppt.nca-matched.s0", "pt.nca-0-20.corpus.s0", "pt.scratch.corpus.s2"):
        assert planned in plan.stdout


def test_only_an_inconclusive_setting_is_commented_in_the_code(tmp_path):
    match = found(corpus(tmp_path, letters()))
    code = regimes(match)
    assert {s.verdict for s in match.settings} == {"clear", "inconclusive"}
    for s in match.settings:
        field = "band" if s.setting == "level" else s.setting
        line = next(line for line in code.splitlines() if line.strip().startswith(f"{field}="))
        assert ("# inconclusive" in line) == (s.verdict == "inconclusive")
        values = {value_of(c, s.setting) for c in match.ordered}
        assert ("any would do" in line) == (
            s.verdict == "inconclusive" and (values == {s.value, *s.others} or match.edge is not None)
        )


def test_one_thing_has_one_name_in_every_sentence(tmp_path):
    result = run("corpus", TextSpec(source=f"files:{corpus(tmp_path, letters())}"))
    told = " ".join(
        [result.record["sentence"], *result.record["cautions"], *(r.changed for r in result.match.readings)]
    )
    assert "complexity" in told
    assert not re.search(r"\b(level|band|n_states|alphabet|dt)\b", told)


def test_a_recipe_finds_its_files_from_any_folder(tmp_path, monkeypatch):
    corpus(tmp_path, letters())
    monkeypatch.chdir(tmp_path)
    assert f"files:{tmp_path}/corpus.jsonl" in run("corpus.jsonl", TextSpec(source="files:corpus.jsonl")).recipe


def test_recipes_of_two_corpora_are_two_runs():
    labels = [
        "a/prose.txt",
        "b/code.jsonl.gz",
        "site:code",
        "hf:allenai/c4:en",
        "arithmetic:",
        "файл.txt",
        "文.txt",
        "x" * 90,
    ]
    names = [run_name(label) for label in labels]
    assert names[:5] == ["matched-prose", "matched-code", "matched-site-code", "matched-c4-en", "matched-arithmetic"]
    assert len(set(names)) == len(names)
    for name in names:
        assert Study.model_validate({**find("runs", "laptop").value().model_dump(), "name": name}).name == name
        assert name.replace("-", "_").isidentifier()


def test_the_recipe_of_a_synthetic_source_is_a_valid_study():
    result = run("dyck", DyckSpec(k=4), n=32)
    names: dict = {"__name__": "recipe"}
    exec(compile(result.recipe, "recipe.py", "exec"), names)
    study = names["matched_dyck"]()
    assert Study.model_validate(study.model_dump(mode="json")) == study


def test_command_line_prints_one_json_object_and_writes_the_folder(tmp_path):
    path = corpus(tmp_path, letters())
    result = call(
        "match", path, "--json", "--out", "o", "--csv", "cells.csv", "--recipe", "runs/matched.py", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    printed = json.loads(result.stdout)
    assert printed["recommended"]["kind"] == "nca"
    assert len(printed["tables"]["cells"]) == len(make_cells())
    assert printed["rests_on"] == rests_on(own_evidence())
    assert printed["rests_on"].startswith(HYPOTHESIS)
    unsure = [s for s in printed["tables"]["settings"] if s["verdict"] == "inconclusive"]
    assert unsure
    assert all((s["failed"] != "") == (s in unsure) for s in printed["tables"]["settings"])
    for s in unsure:
        assert any(f"is inconclusive: {s['failed']}" in caution for caution in printed["cautions"])
    assert {p.name for p in (tmp_path / "o").iterdir()} == {"match.json", "recipe.py", "report.html", "tables"}
    assert (tmp_path / "cells.csv").read_text() == (tmp_path / "o" / "tables" / "cells.csv").read_text()
    first = (tmp_path / "runs" / "matched.py").read_text()
    again = ["--out", "o", "--csv", "cells.csv", "--recipe", "runs/matched.py", "--seed", "1"]
    assert call("match", path, *again, cwd=tmp_path).returncode == 0
    assert (tmp_path / "runs" / "matched.py").read_text() != first
    other = call("match", corpus(tmp_path, letters(), "other"), *again, cwd=tmp_path)
    assert other.returncode == 2
    assert "runs/matched.py: is there already" in other.stderr


def test_command_line_shows_tables_and_says_what_it_rests_on(tmp_path):
    result = call("match", corpus(tmp_path, letters()), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for text in (
        "Nearest of 90 cells",
        "How sure",
        "Under other ways of measuring",
        "matching hypothesis",
        "MATCHED = Regime(",
    ):
        assert text in result.stdout, text
    assert "Nothing on the grid resembles this corpus" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file exists"),
        (b"", "is empty"),
        (b"\xff\xfe\x00 not text " * 1000, "not UTF-8 but UTF-16 (byte 0xff at offset 0)"),
        (
            b"too short",
            "is too short: it holds 10 symbols, ends of documents included; match needs at least 16 rows of 4,096 symbols from as many",
        ),
        (b"a few words in a row. " * 1000, "at least 16 rows of 4,096 symbols from as many different documents"),
    ],
)
def test_bad_corpora_get_one_message_and_exit_2(tmp_path, content, message):
    path = tmp_path / "corpus.txt"
    if content is not None:
        path.write_bytes(content)
    result = call("match", path, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--grid", "n_stats=3"], "--grid n_stats=3: unknown field"),
        (["--footing", "symbol"], "did you mean 'symbols'"),
        (["--study", "nowhere"], "nowhere: not a study"),
        (["--out", "full"], "--out full: not empty and no match"),
        (["--csv", "full/thesis.txt"], "--csv full/thesis.txt: is there already and no table of cells"),
        (["--recipe", "full/thesis.txt"], "--recipe full/thesis.txt: is there already and no recipe that match made"),
        (["--recipe", "full"], "--recipe full: not empty and no recipe that match made"),
    ],
)
def test_wrong_options_get_one_message_and_exit_2(tmp_path, options, message):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    result = call("match", corpus(tmp_path, letters(2)), *options, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.txt"]
    assert (tmp_path / "full" / "thesis.txt").read_text() == "mine"
