"""The engine: one broken probe harms no other, done work is skipped, a changed probe alone is measured again."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nca_interp.analysis.collection.run import Run
from nca_interp.analysis.probing.engine import COLUMNS, analyze, analyze_run, engine_hash
from nca_interp.analysis.probing.table import read_table, save
from nca_interp.analysis.stimuli.base import NotApplicable, Subject, natural, repeated_tokens
from nca_interp.analysis.stimuli.streams import dyck, nca_frames
from nca_interp.analysis.stimuli.subject import open_rows
from nca_interp.base import UserError
from nca_interp.config import ModelConfig
from nca_interp.data.specs import DyckSpec, NcaSpec
from nca_interp.data.tokens import TokenFile, write_tokens
from nca_interp.model.checkpoint import save_model
from nca_interp.model.llama import build
from nca_interp.store import RunDir, checkpoint_hash

CONFIG = ModelConfig(n_layers=2, d_model=16, n_heads=2, d_mlp=24, n_ctx=64)

GOOD = '''"""Two back."""
from nca_interp import probe, repeated_tokens

@probe(stimulus=repeated_tokens(period=16), unit="attention mass", low=0.0, high=1.0)
def two_back(attention):
    return attention.offset(2).mean()
'''
BROKEN = {
    "raises": ('    return attention.offset(2).no_such_method()', 6, "AttributeError"),
    "shaped": ('    return attention.offset(2).values', 4, "legal: \\[16, 1\\]"),
    "nans": ('    return attention.offset(2).mean() * float("nan")', 4, "NaN or infinity"),
    "ranged": ('    return attention.offset(2).mean() + 3', 4, "its declared range is 0.0 to 1.0"),
    "ends": ('    exit()', 6, "SystemExit: None"),
    "typed": ('    return 3', 4, "int; legal: a tensor"),
    "objects": ('    import numpy\n    return numpy.array([[None]])', 4, "TypeError: can't convert np.ndarray of type numpy.object_"),
    "complex": ('    return attention.offset(2).mean() * 1j', 4, "torch.complex64; legal: real numbers"),
    "base": ('    raise BaseException("odd")', 6, "BaseException: odd"),
}  # fmt: skip


@pytest.fixture
def study(tmp_path) -> Path:
    """Two checkpoints of an NCA run in a study folder with its tokens."""
    meta = write_tokens(
        tmp_path / "tokens" / "nca", NcaSpec(grid=6, n_states=2, band=None), n_train=4, n_val=40, seq_len=64, seed=0
    )
    for step in (0, 7):
        _save(tmp_path, step, meta.vocab_size)
    open_rows.cache_clear()
    return tmp_path


def _save(path: Path, step: int, vocab: int) -> None:
    provenance = {
        "run": "ppt.nca.s0", "regime": "nca", "domain": None, "seed": 0, "stage": "ppt", "step": step, "tokens": 10 * step,
        "tokens_dir": "tokens/nca",
    }  # fmt: skip
    model = build(CONFIG, vocab, step, "ppt")
    save_model(model, path / "runs" / "ppt.nca.s0" / "checkpoints" / f"step-{step:08d}", provenance, None)


def _run(study: Path) -> Run:
    folder = RunDir(study / "runs" / "ppt.nca.s0")
    identity = {"id": "ppt.nca.s0", "regime": "nca", "seed": 0, "stage": "ppt", "tokens_at": {0: 0, 7: 896}}
    return Run(folder=folder.path, directories={step: folder.checkpoint(step) for step in folder.steps()}, **identity)


def _write_broken(folder: Path) -> None:
    folder.mkdir()
    (folder / "two_back.py").write_text(GOOD)
    for name, (line, _, _) in BROKEN.items():
        lines = GOOD.replace("two_back", name).splitlines()
        (folder / f"{name}.py").write_text("\n".join([*lines[:-1], line, ""]))
    (folder / "syntax.py").write_text("from nca_interp import probe\ndef (:\n")
    (folder / "arguments.py").write_text(GOOD.replace("two_back", "short").replace("period=16", "period=2"))


def test_all_probes_of_an_nca_checkpoint(study):
    frame = analyze(_run(study).checkpoint(7))
    assert list(frame.columns) == COLUMNS
    assert frame.attrs["problems"] == []
    assert all(reason.startswith("to_") for reason in frame.attrs["skipped"])  # classes of text tokens
    assert frame[["run", "regime", "domain", "seed", "stage", "step", "tokens"]].drop_duplicates().values.tolist() == [
        ["ppt.nca.s0", "nca", "", 0, "ppt", 7, 70]
    ]
    assert {"nca_stencil", "nca_grid_time", "induction", "copying", "in_context_learning"} <= set(frame.probe)
    heads = frame[frame["head"].notna()].groupby("probe").size()
    assert heads.eq(4).all()
    assert (frame.unit[frame.probe == "induction"] == "attention mass, period 16").all()  # 16 patch tokens exist
    again = analyze(_run(study).checkpoint(7))
    pd.testing.assert_frame_equal(frame, again)


def test_a_broken_probe_is_named_with_file_and_line_while_the_others_finish(study, tmp_path):
    folder = tmp_path / "own"
    _write_broken(folder)
    frame = analyze(_run(study).checkpoint(0), probes_folder=folder)
    problems = frame.attrs["problems"]
    for name, (_, line, message) in BROKEN.items():
        told = [p for p in problems if f"{name}.py:" in p]
        assert told[0].startswith(f"{folder / name}.py:"), told
        assert int(told[0].split(":")[1]) == line
        assert pd.Series(told).str.contains(message).all(), told
        assert name not in set(frame.probe)
    assert any("syntax.py:2" in p for p in problems)
    assert any("arguments.py:4: repeated_tokens: period 2" in p for p in problems), problems
    assert {"two_back", "induction", "copying"} <= set(frame.probe)


def test_a_probe_that_fails_on_real_weights_only_is_named(study, tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    lines = GOOD.splitlines()
    lines[-1] = "    return attention.offset(2).mean() / (1.0 if attention.n_heads == 1 else 0.0)"
    (folder / "two_back.py").write_text("\n".join(lines))
    frame = analyze(_run(study).checkpoint(0), probes_folder=folder)
    assert len(frame.attrs["problems"]) == 1
    assert "two_back.py" in frame.attrs["problems"][0]
    assert "two_back" not in set(frame.probe)


def test_unknown_probe_and_missing_folder(study, tmp_path):
    checkpoint = _run(study).checkpoint(0)
    with pytest.raises(UserError, match="did you mean 'induction'"):
        analyze(checkpoint, probes=["inductoin"])
    with pytest.raises(UserError, match="no such folder"):
        analyze(checkpoint, probes_folder=tmp_path / "nowhere")
    with pytest.raises(UserError, match="no such checkpoint"):
        analyze(tmp_path / "nowhere")


def test_done_work_is_skipped_and_a_changed_probe_alone_is_measured_again(study, tmp_path, monkeypatch):
    from nca_interp.analysis.probing.measure import Measurer

    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "two_back.py").write_text(GOOD)
    run = _run(study)
    steps = []
    first = analyze_run(run, probes_folder=folder, on_step=lambda done, total: steps.append((done, total)))
    assert (first.computed, first.reused, first.problems) == (2, 0, [])
    assert steps == [(1, 2), (2, 2)]
    before = {s: run.kept("probes", s).read_bytes() for s in (0, 7)}

    measured: list[set[str]] = []
    real = Measurer.measure

    def spy(self, model, subject, *told):
        measured.append(set(self.probes))
        return real(self, model, subject, *told)

    monkeypatch.setattr(Measurer, "measure", spy)
    again = analyze_run(run, probes_folder=folder)
    assert (again.computed, again.reused) == (0, 2)
    assert measured == []
    assert {s: run.kept("probes", s).read_bytes() for s in (0, 7)} == before

    (folder / "two_back.py").write_text(GOOD.replace("offset(2)", "offset(3)"))
    assert analyze_run(run, probes_folder=folder).computed == 2
    assert measured == [{"two_back"}, {"two_back"}]
    old = pd.read_csv(io.BytesIO(before[0]))
    new = pd.read_csv(run.kept("probes", 0))
    other = [f[f.probe != "two_back"].reset_index(drop=True) for f in (old, new)]
    pd.testing.assert_frame_equal(*other)
    assert not old[old.probe == "two_back"].value.equals(new[new.probe == "two_back"].value)

    measured.clear()
    _save(study, 7, 18)  # the same weights again: nothing to do
    assert analyze_run(run, probes_folder=folder).computed == 0
    (folder / "two_back.py").unlink()
    assert analyze_run(run, probes_folder=folder).computed == 2  # a probe that is gone leaves the table
    assert measured == []
    assert "two_back" not in set(read_table(run.kept("probes", 7)).probe)


def test_other_weights_or_a_damaged_table_are_measured_again(study):
    run = _run(study)
    analyze_run(run, probes=["induction"])
    shutil.rmtree(run.checkpoint(7))
    provenance = {"run": "ppt.nca.s0", "step": 7, "tokens_dir": "tokens/nca"}
    save_model(build(CONFIG, 18, 99, "ppt"), run.checkpoint(7), provenance, None)
    run.kept("probes", 0).with_suffix(".json").write_text("{")
    assert analyze_run(run, probes=["induction"]).computed == 2


def test_a_damaged_checkpoint_is_a_problem_of_its_own(study):
    run = _run(study)
    weights = run.checkpoint(0) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    result = analyze_run(run, probes=["induction"])
    assert len(result.problems) == 1
    assert "damaged checkpoint" in result.problems[0]
    assert run.kept("probes", 7).is_file()


def test_problems_and_skips_are_remembered(study, tmp_path):
    folder = tmp_path / "own"
    _write_broken(folder)
    (folder / "syntax.py").unlink()
    first = analyze_run(_run(study), probes_folder=folder)
    second = analyze_run(_run(study), probes_folder=folder)
    assert first.problems == second.problems != []
    assert second.computed == 0
    header = json.loads(_run(study).kept("probes", 0).with_suffix(".json").read_text())
    assert header["stimuli"]["two_back"] == {"kind": "RepeatedTokens", "sequences": 16, "period": 16, "repeats": 2}


def test_streams_are_laid_over_other_vocabularies(tmp_path):
    meta = write_tokens(tmp_path / "dyck", DyckSpec(k=40, max_depth=4), n_train=4, n_val=40, seq_len=64, seed=0)
    build(CONFIG, meta.vocab_size, 0, "ppt").save_pretrained(tmp_path / "model")
    frame = analyze(tmp_path / "model", tokens=tmp_path / "dyck")
    assert all(reason.startswith("to_") for reason in frame.attrs["skipped"])
    assert {"entropy", "induction", "nca_stencil", "dyck_opener"} <= set(frame.probe)
    unit = frame[frame.probe == "nca_stencil"].unit.iloc[0]
    assert unit == "attention mass, 2 states on 6 x 6 cells, laid over the vocabulary"
    assert (frame[frame.probe == "dyck_opener"].unit == "attention mass").all()  # its own brackets
    small = build(CONFIG, 20, 0, "ppt")
    small.save_pretrained(tmp_path / "small")
    with pytest.raises(UserError, match="a vocabulary of 80 tokens; the model in .* has 20"):
        analyze(tmp_path / "small", tokens=tmp_path / "dyck")


def test_a_vocabulary_smaller_than_the_stimulus_needs(tmp_path):
    build(CONFIG, 6, 0, "ppt").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="a vocabulary smaller than the stimulus needs: 6 tokens can be drawn"):
        analyze(tmp_path, probes=["induction"])
    with pytest.raises(
        UserError, match="NCA frames need 18 ordinary tokens and a context of 44; this model has 6 and 64"
    ):
        analyze(tmp_path, probes=["nca_stencil"])
    assert set(analyze(tmp_path).probe) == {"dyck_opener", "dyck_match"}
    build(CONFIG, 3, 0, "ppt").save_pretrained(tmp_path / "tiny")
    with pytest.raises(UserError, match="does not apply"):
        analyze(tmp_path / "tiny")


def test_repeated_tokens_are_distinct_reproducible_and_fit():
    subject = Subject("x", 500, 100, frozenset({3, 4}), prefix=(3,))
    batch = repeated_tokens().build(subject)
    assert batch.inputs.shape == (16, 1 + 2 * 49)
    assert batch.note == "period 49"
    block = batch.inputs[:, 1:50]
    assert all(len(set(row)) == 49 for row in block)
    assert np.array_equal(block, batch.inputs[:, 50:])
    assert not np.isin(block, [3, 4]).any()
    assert np.array_equal(batch.inputs, repeated_tokens().build(subject).inputs)
    assert batch.in_repeat().sum() == 49
    assert batch.in_repeat(1).sum() == 49
    assert not batch.in_repeat(1)[0]
    with pytest.raises(NotApplicable, match="a context of 12 tokens is too short"):
        repeated_tokens().build(Subject("x", 500, 12))
    with pytest.raises(UserError, match="period 4"):
        repeated_tokens(period=4)


def test_the_most_and_least_frequent_tokens_are_left_out():
    counts = np.arange(1, 101)
    rows = np.repeat(np.arange(100), counts)[None].repeat(2, 0)
    batch = repeated_tokens(sequences=200).build(Subject("x", 100, 200, rows=rows))
    assert set(np.unique(batch.inputs)) == set(range(4, 96))


def test_natural_and_nca_rows_come_from_the_token_file(study):
    rows = TokenFile.open(study / "tokens" / "nca").val
    spec = NcaSpec(grid=6, n_states=2, band=None).model_dump(mode="json")
    subject = Subject("x", 18, 64, rows=rows, spec=spec)
    batch = natural(sequences=5).build(subject)
    assert np.array_equal(batch.inputs, rows[:5, :64])
    assert np.array_equal(batch.targets, rows[:5, 1:65])
    frames = nca_frames(sequences=3).build(subject)
    assert frames.frame == (3, 3, 0, 1)
    assert (frames.inputs[:, 0] == 16).all()
    assert (frames.inputs[:, frames.frame.tokens - 1] == 17).all()


@pytest.mark.parametrize("prefix", [(), (7,), (9, 7)])
def test_laid_over_streams_keep_their_geometry(prefix):
    """Each patch token becomes one ordinary token; behind the tokenizer's prefix everything moves by its length."""
    subject = Subject("x", 30_000, 400, frozenset({7, 9}), prefix)
    frames, start = nca_frames(sequences=3).build(subject), len(prefix)
    assert frames.inputs.shape == frames.targets.shape == (3, 400)
    assert frames.frame == (6, 6, start, 1)
    assert frames.note == "10 states on 12 x 12 cells, laid over the vocabulary"
    assert np.array_equal(frames.inputs[:, 1:], frames.targets[:, :-1])
    opens, closes = frames.inputs[:, start::38], frames.inputs[:, start + 37 :: 38]
    assert len(np.unique(opens)) == len(np.unique(closes)) == 1
    assert not np.isin(frames.inputs[:, start:], [7, 9]).any()
    assert (frames.places[:, start::38] == -1).all()
    assert (frames.places[:, start + 1 : start + 37] >= 0).all()
    assert np.array_equal(frames.inputs, nca_frames(sequences=3).build(subject).inputs)
    brackets = dyck(sequences=3).build(subject)
    assert brackets.inputs.shape == brackets.targets.shape == (3, 400)
    closing = brackets.opener >= 0
    row, place = closing.nonzero()
    pairs = {
        (int(brackets.inputs[r, brackets.opener[r, p]]), int(brackets.inputs[r, p]))
        for r, p in zip(row, place, strict=True)
    }
    assert len(pairs) == 64
    assert len({o for o, _ in pairs} | {c for _, c in pairs}) == 128
    assert (frames.inputs[:, :start] == prefix).all()
    assert (brackets.inputs[:, :start] == prefix).all()


def _with_stimulus(folder: Path, body: str) -> Path:
    folder.mkdir()
    lines = GOOD.replace("probe, repeated_tokens", "probe").replace("repeated_tokens(period=16)", "Own()").splitlines()
    own = f"""
from dataclasses import dataclass
import numpy as np
from nca_interp.analysis.stimuli.base import Batch, Stimulus

@dataclass(frozen=True)
class Own(Stimulus):
    def build(self, subject):
        {body}
"""
    (folder / "own.py").write_text("\n".join([*lines[:2], own, *lines[2:], ""]))
    return folder


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "return Batch(np.zeros((2, 65), int), np.zeros((2, 64), int))",
            "65 tokens a sequence; the model's context holds 64",
        ),
        ("return Batch(np.full((2, 9), 18), np.zeros((2, 8), int))", "holds tokens 18 to 18; the model knows 0 to 17"),
        ("return np.zeros((2, 9))", "built a ndarray; legal: a Batch"),
        ("return Batch(np.zeros((2, 9)), np.zeros((2, 8), int))", "inputs float64 [2, 9]; legal: whole numbers"),
        ("return Batch(np.zeros((2, 9), int), [[1]])", "targets list; legal: whole numbers"),
        ("return Batch(np.zeros(9, int), np.zeros(8, int))", "inputs int64 [9]; legal: whole numbers"),
        ("return Batch(np.zeros((0, 9), int), np.zeros((0, 8), int))", "inputs int64 [0, 9]; legal: whole numbers"),
        (
            "return Batch(np.zeros((2, 9), int), np.zeros((3, 4), int))",
            "inputs [2, 9] and targets [3, 4]; legal: a target",
        ),
        ("raise KeyError('x')", "raised KeyError: 'x'"),
        ("exit(0)", "raised SystemExit: 0"),
    ],
)
def test_a_stimulus_that_the_model_cannot_take_is_named(study, tmp_path, body, message):
    folder = _with_stimulus(tmp_path / "own", body)
    with pytest.warns(UserWarning, match="own.py:.*probe two_back"):
        frame = analyze(_run(study).checkpoint(0), probes=["two_back", "induction"], probes_folder=folder)
    assert len(frame.attrs["problems"]) == 1
    assert message in frame.attrs["problems"][0]
    assert set(frame.probe) == {"induction"}


@pytest.mark.parametrize(("body", "message"), [("1 / 0", "ZeroDivisionError"), ("exit(3)", "SystemExit: 3")])
def test_a_chance_level_that_raises_is_named(study, tmp_path, body, message):
    folder = tmp_path / "own"
    folder.mkdir()
    text = GOOD.replace("low=0.0", f"reads='heads', chance=lambda s: {body}, low=0.0")
    (folder / "two_back.py").write_text(text)
    frame = analyze(_run(study).checkpoint(0), probes=["two_back", "induction"], probes_folder=folder)
    assert f"two_back.py:4: chance of probe two_back: {message}" in frame.attrs["problems"][0]
    assert set(frame.probe) == {"induction"}


def test_a_checkpoint_that_changes_while_it_is_read(study, monkeypatch):
    from nca_interp.analysis.probing.measure import Measurer

    checkpoint, real = _run(study).checkpoint(7), Measurer.measure

    def rewritten(self, model, subject, *told):
        weights = checkpoint / "model.safetensors"
        weights.write_bytes(weights.read_bytes())
        return real(self, model, subject, *told)

    monkeypatch.setattr(Measurer, "measure", rewritten)
    with pytest.raises(UserError, match="changed while it was read; analyse it when it is complete"):
        analyze(checkpoint, probes=["induction"])


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables_carry_their_provenance(study, tmp_path, suffix):
    checkpoint = _run(study).checkpoint(7)
    frame = analyze(checkpoint, probes=["induction", "nca_match_frequency"])
    path = tmp_path / "out" / f"heads{suffix}"
    assert save(frame, path) == [path, path.with_suffix(".json")]
    found = read_table(path) if suffix == ".csv" else pd.read_parquet(path)
    pd.testing.assert_frame_equal(found, frame, check_dtype=suffix == ".csv")
    attrs = json.loads(path.with_suffix(".json").read_text())
    if suffix == ".parquet":
        assert found.attrs == {name: value for name, value in attrs.items() if name != "table"}
    told = attrs["provenance"]
    assert told["checkpoint_sha256"] == checkpoint_hash(checkpoint)
    assert told["engine"] == engine_hash()
    assert told["probes"]["induction"]["file"] == "induction.py"
    assert told["probes"]["induction"]["stimulus"] == {
        "kind": "RepeatedTokens",
        "sequences": 16,
        "period": 64,
        "repeats": 2,
    }
    assert told["versions"]["torch"]
    with pytest.raises(UserError, match="unknown kind of table '.xlsx'; legal: .csv, .parquet"):
        save(frame, tmp_path / "heads.xlsx")


def test_the_hash_of_a_checkpoint_of_others_follows_its_weights(tmp_path):
    hashes = set()
    for seed in (0, 1, 1):
        build(CONFIG, 50, seed, "ppt").save_pretrained(tmp_path)
        hashes.add(analyze(tmp_path, probes=["induction"]).attrs["provenance"]["checkpoint_sha256"])
    assert len(hashes) == 2


def test_names_of_the_hub(tmp_path, monkeypatch):
    """A name is downloaded where there is a network, a directory of that name wins, and offline one sentence says so."""
    import huggingface_hub

    asked = []

    def download(repository, revision, allow_patterns):
        asked.append((repository, revision))
        assert not any("bin" in pattern for pattern in allow_patterns)
        if repository == "some/missing":
            raise OSError("Name or service not known\nmore")
        return str(tmp_path / "model")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    build(CONFIG, 50, 0, "ppt").save_pretrained(tmp_path / "model")
    build(CONFIG, 50, 0, "ppt").save_pretrained(tmp_path / "a" / "folder")
    assert set(analyze("org/model-1b@step1000", probes=["induction"]).probe) == {"induction"}
    analyze("a/folder", probes=["induction"])
    assert asked == [("org/model-1b", "step1000")]
    with pytest.raises(
        UserError,
        match="some/missing: no such checkpoint directory, and the Hugging Face hub does not give it \\(Name or service not known\\)",
    ):
        analyze("some/missing")
    with pytest.raises(UserError, match="no such checkpoint directory"):
        analyze("nowhere")


def test_slices_do_not_change_the_scores(study, monkeypatch):
    from nca_interp.analysis.attention import forward, losses

    checkpoint = _run(study).checkpoint(7)
    whole = analyze(checkpoint)
    monkeypatch.setattr(forward, "PASS_TOKENS", 1024)  # every stimulus that compares sequences has fewer
    monkeypatch.setattr(losses, "LOGIT_ELEMENTS", 1000)
    sliced = analyze(checkpoint)
    pd.testing.assert_frame_equal(whole, sliced, rtol=1e-4, atol=1e-5)


def test_the_documented_length_of_a_slice(root):
    from nca_interp.analysis.attention.forward import PASS_TOKENS

    assert f"longer than 2^{PASS_TOKENS.bit_length() - 1} tokens in all" in (root / "CONTRIBUTING.md").read_text()
