"""Real task files and planted models: a key scores 100 %, silence 0; interruption, parts, skipped problems, bad inputs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

pytest.importorskip("lm_eval", reason="needs the extra [eval] (lm-evaluation-harness)")

from nca_interp.base import UserError
from nca_interp.data.text.tokenizer import Opened
from nca_interp.evaluate import run as running
from nca_interp.evaluate import sandbox
from nca_interp.evaluate.run import evaluate
from nca_interp.evaluate.settings import Settings, check, load_all
from nca_interp.evaluate.sources import load, parse, read_examples
from tests.conftest import ROOT
from tests.evaluate.planted import END, Keyed, byte_tokenizer

DATA = ROOT.parent / "shared" / "data"
REAL = pytest.mark.skipif(not DATA.is_dir(), reason="the task files of ../shared/data are not here")
SANDBOX = sandbox.working()
SANDBOXED = pytest.mark.skipif(SANDBOX[0] is None, reason=f"no sandbox works here: {SANDBOX[1]}")


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """evaluate() of a planted model."""

    def ask(model, settings, folder="answers", part=None):
        opened = Opened(model.tokenizer, model.tokenizer.token_to_id(END))
        monkeypatch.setattr(
            running, "_open", lambda checkpoint, given: (model, opened, model.config.max_position_embeddings)
        )
        return evaluate(tmp_path, "planted", tmp_path / folder, settings, part)

    return ask


def accuracy(evaluation, task=None) -> float:
    rows = [s for s in evaluation.scored if task in (None, s.task)]
    return sum(s.correct for s in rows) / sum(s.answered for s in rows)


def solved(items, wrong: bool = False) -> dict[str, str]:
    return {i.prompt: " " + ("nothing" if wrong else (i.shown or i.answer.split("\x1f")[0])) for i in items}


@REAL
def test_gsm8k_a_model_that_answers_from_a_key_has_all_right_and_one_that_says_nothing_none(asked):
    settings = Settings(parse(f"gsm8k={DATA / 'gsm8k_test.jsonl'}"), limit=40)
    items = load_all(settings)[0].items
    assert len(items) == 1319
    tokenizer = byte_tokenizer()
    found = asked(Keyed({i.prompt: " #### " + i.answer for i in items}, tokenizer), settings)
    assert accuracy(found) == 1.0
    assert (len(found.scored), {s.answered for s in found.scored}) == (40, {1})
    assert found.results["results"]["gsm8k"]["acc,none"] == 1.0
    silent = asked(Keyed({}, tokenizer), settings, "silent")
    assert accuracy(silent) == 0.0
    assert silent.results["results"]["gsm8k"]["acc,none"] == 0.0


@REAL
@SANDBOXED
def test_humaneval_with_real_solutions_wrong_ones_and_none(asked):
    settings = Settings(parse(f"humaneval={DATA / 'HumanEval.jsonl.gz'}"), limit=6, run_code=True)
    items = load_all(settings)[0].items
    assert len(items) == 164
    import gzip

    with gzip.open(DATA / "HumanEval.jsonl.gz", "rt") as file:
        key = {r["prompt"]: r["canonical_solution"] for r in map(json.loads, file)}
    tokenizer = byte_tokenizer()
    assert accuracy(asked(Keyed(key, tokenizer), settings)) == 1.0
    mixed = {p: s if n % 2 else "    return None\n" for n, (p, s) in enumerate(key.items())}
    assert accuracy(asked(Keyed(mixed, tokenizer), settings, "mixed")) == 0.5
    assert accuracy(asked(Keyed({}, tokenizer), settings, "silent")) == 0.0


@REAL
def test_bigbench_lite_has_24_tasks_and_both_ways_to_answer(asked):
    file = DATA / "bigbench_lite.jsonl.gz"
    written, chosen = (load(w, "", 0, 0, 0) for w in parse(f"bbl={file},bbl-choice={file}"))
    assert len({i.part for i in written.items}) == 24
    assert len(written.items) == 5829
    assert all(0 < i.chance < 1 for i in chosen.items)
    assert all(i.chance == 0 or i.answer for i in written.items)
    settings = Settings(parse(f"bbl={file}"), limit=2)
    parts: dict[str, list] = {}
    for item in written.items:
        parts.setdefault(item.part, []).append(item)
    first = [item for items in parts.values() for item in items[:2]]
    found = asked(Keyed(solved(first), byte_tokenizer(), n_ctx=20_000), settings)
    assert len(found.scored) == 48
    assert len({s.part for s in found.scored}) == 24
    short = [len(f" {i.shown}".encode()) <= 35 and "\n" not in i.shown for i in first]
    assert [s.correct == 1 for s in found.scored] == short, "all right but what is longer than 35 tokens, here bytes"
    assert sum(short) > 30


def write(path: Path, *records: dict) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def sums(n: int, start: int = 0) -> list[dict]:
    return [{"question": f"{a} + 1?", "answer": f"think\n#### {a + 1}"} for a in range(start, start + n)]


def test_draws_are_kept_apart_and_pass_at_k_is_that_of_the_counts(asked, tmp_path):
    file = write(tmp_path / "t.jsonl", *sums(6))
    settings = Settings(parse(f"gsm8k={file}"), sampling="paper", samples=12, ks=(1, 4))
    key = {f"Question: {a} + 1?\nAnswer:": (f" #### {a + 1}", " #### 0x") for a in range(6)}
    found = asked(Keyed(key, byte_tokenizer()), settings)
    counts = [s.correct for s in found.scored]
    assert [s.answered for s in found.scored] == [12] * 6
    assert len(set(counts)) > 1
    assert 0.2 < sum(counts) / 72 < 0.8, "both answers are drawn"
    by_hand = [1 - math.comb(12 - c, 4) / math.comb(12, 4) for c in counts]
    assert found.results["results"]["gsm8k"]["pass@4,none"] == pytest.approx(sum(by_hand) / 6)
    assert found.results["results"]["gsm8k"]["pass@1,none"] == pytest.approx(sum(counts) / 72)
    sample = found.results["samples"]["gsm8k"][0]
    assert len(sample["resps"][0]) == 12


def test_an_interrupted_evaluation_continues_and_parts_give_the_same(asked, tmp_path):
    file = write(tmp_path / "t.jsonl", *sums(8))
    settings = Settings(parse(f"gsm8k={file}"), sampling="paper", samples=3, ks=(1,), batch=6)
    key = {f"Question: {a} + 1?\nAnswer:": (f" #### {a + 1}", " #### 7", " no") for a in range(8)}
    tokenizer = byte_tokenizer()
    whole = asked(Keyed(key, tokenizer), settings, "whole")
    lines = (tmp_path / "whole" / "answers-all.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 24
    torn = tmp_path / "torn"
    torn.mkdir()
    (torn / "answers-all.jsonl").write_text("".join(lines[:9]) + lines[9][:20])
    model = Keyed(key, tokenizer)
    again = asked(model, settings, "torn")
    assert again.scored == whole.scored
    assert again.results["samples"]["gsm8k"][3]["resps"] == whole.results["samples"]["gsm8k"][3]["resps"]
    assert asked(silent := Keyed({}, tokenizer), settings, "torn").scored == whole.scored
    assert silent.rows_seen == [], "all is known: nothing is asked again, only scored"
    for part in range(3):
        assert asked(Keyed(key, tokenizer), settings, "parts", (part, 3)) is None
    last = Keyed({}, tokenizer)
    assert asked(last, settings, "parts").scored == whole.scored
    assert last.rows_seen == []


def test_a_problem_that_does_not_fit_is_skipped_and_never_right(asked, tmp_path):
    long = {"question": "x" * 300, "answer": "#### 1"}
    file = write(tmp_path / "t.jsonl", *sums(3), long)
    key = {f"Question: {a} + 1?\nAnswer:": f" #### {a + 1}" for a in range(2)} | {
        f"Question: {'x' * 300}\nAnswer:": " #### 1"
    }
    found = asked(
        Keyed(key, byte_tokenizer(), n_ctx=100),
        Settings(parse(f"gsm8k={file}"), sampling="paper", samples=2, ks=(1, 2)),
    )
    assert [(s.answered, s.correct) for s in found.scored] == [(2, 2), (2, 2), (2, 0), (0, 0)]
    assert found.results["results"]["gsm8k"]["acc,none"] == pytest.approx(2 / 3)
    assert math.isnan(found.results["samples"]["gsm8k"][3]["pass@2"])
    assert found.notes == ["gsm8k: 1 of 4 problems do not fit the context of 100 tokens and were skipped"]
    only = write(tmp_path / "long.jsonl", long)
    with pytest.raises(UserError, match="none of its 1 problems fits the context of 100 tokens"):
        asked(Keyed(key, byte_tokenizer(), n_ctx=100), Settings(parse(f"gsm8k={only}")))


def test_choices_are_compared_and_one_that_does_not_fit_is_skipped(asked, tmp_path):
    records = [
        {"UID": "a", "sentence_good": "the cat sleeps", "sentence_bad": "the cat sleep"},
        {"UID": "b", "sentence_good": "dogs bark", "sentence_bad": "dogs barks"},
        {"UID": "b", "sentence_good": "y" * 200, "sentence_bad": "z" * 300},
    ]
    file = write(tmp_path / "pairs.jsonl", *records)
    key = {"the cat sleep": "s", "dogs bark": "s"}
    found = asked(Keyed(key, byte_tokenizer(), n_ctx=250), Settings(parse(f"pairs={file}")))
    by_part = {(s.part, s.number): (s.answered, s.correct) for s in found.scored}
    assert by_part["b", 1] == (0, 0)
    assert by_part["a", 0] == (1, 0) or by_part["a", 0] == (1, 1)
    assert {s.chance for s in found.scored} == {0.5}


def test_context_examples_come_from_the_training_split_and_never_from_what_is_asked(asked, tmp_path):
    test = write(tmp_path / "test.jsonl", *sums(4))
    train = write(tmp_path / "train.jsonl", *sums(6, start=2))
    settings = Settings(parse(f"gsm8k={test}"), read_examples(f"gsm8k={train}"), shots=2)
    loaded = load_all(settings)[0]
    assert loaded.also_asked == 2
    found = asked(Keyed({}, byte_tokenizer()), settings)
    for sample in found.results["samples"]["gsm8k"]:
        prompt = sample["arguments"][0][0]
        shown = prompt.split("\n\n")
        assert len(shown) == 3
        assert shown[-1] == sample["doc"]["prompt"]
        assert all(
            "think\n#### " in s and f"Question: {s.split()[1]} +" in s and int(s.split()[1]) >= 4 for s in shown[:2]
        )
    assert any("2 training problems are asked as well" in note for note in found.notes)
    with pytest.raises(UserError, match="shots: 2 context examples come from the training split only"):
        load_all(Settings(parse(f"gsm8k={test}"), shots=2))
    with pytest.raises(UserError, match=r"shots: 5, but the training split of gsm8k has 4 problem"):
        load_all(Settings(parse(f"gsm8k={test}"), read_examples(f"gsm8k={train}"), shots=5))


def test_bad_inputs_are_one_message_each(tmp_path):
    keyless = write(tmp_path / "k.jsonl", {"question": "a?", "answer": "#### 1"}, {"question": "b?", "answer": "none"})
    with pytest.raises(UserError, match=r"gsm8k: .*k.jsonl: record 2 has no answer key"):
        load_all(Settings(parse(f"gsm8k={keyless}")))
    with pytest.raises(UserError, match=r"mbpp: .*record 1 has no answer key"):
        load_all(Settings(parse(f"mbpp={keyless}")))
    good = write(tmp_path / "t.jsonl", *sums(2))
    for settings, message in (
        (Settings(parse(f"gsm8k={good}"), sampling="paper", samples=4, ks=(1, 8)), "k: 8 is larger than the 4 answer"),
        (Settings(parse(f"gsm8k={good}"), samples=4), "samples: 4 greedy answers are all the same"),
        (Settings(parse("humaneval=x")), "add --run-generated-code"),
    ):
        with pytest.raises(UserError, match=message):
            check(settings)
    for text, message in (
        ("gsm9k=x", "'gsm9k' is unknown; did you mean 'gsm8k'"),
        ("", "none is named"),
        ("pairs", "pairs: needs a file"),
        ("gsm8k=a,gsm8k=b", "named twice"),
        ("gsm8k=", "no file is named"),
        ("gsm8k:2=x", "has no levels"),
        ("recall:99", "legal levels of recall"),
        ("recall=x", "it takes no file"),
        (f"{tmp_path}/no.yaml", "no such file"),
    ):
        with pytest.raises(UserError, match=message):
            parse(text)
    with pytest.raises(
        UserError,
        match=r"tasks: gsm8k: openai/gsm8k of the hub: cannot be read \(check the network, or give gsm8k=FILE\)",
    ):
        load_all(Settings(parse("gsm8k")))


def test_a_model_without_a_tokenizer_is_refused(tiny_checkpoint, tmp_path):
    file = write(tmp_path / "t.jsonl", *sums(2))
    with pytest.raises(UserError, match="no tokenizer there, so it cannot read problems"):
        evaluate(tiny_checkpoint, "x", tmp_path / "out", Settings(parse(f"gsm8k={file}")))


def test_code_without_a_sandbox_is_refused_before_anything(monkeypatch):
    monkeypatch.setattr(sandbox, "_working", lambda: (None, "bubblewrap: not installed: bwrap"))
    with pytest.raises(UserError, match="no sandbox works on this machine"):
        check(Settings(parse("humaneval=x"), run_code=True))


def test_a_big_bench_file_of_one_object_is_read(tmp_path):
    file = tmp_path / "boolean.json"
    file.write_text(
        json.dumps(
            {"examples": [{"input": "not True is", "target": "False"}, {"input": "True is", "target": "True"}]},
            indent=1,
        )
    )
    items = load(parse(f"bbh={file}")[0], "", 0, 0, 0).items
    assert [(i.prompt, i.answer, i.part) for i in items] == [
        ("Q: not True is\nA:", "False", "boolean"),
        ("Q: True is\nA:", "True", "boolean"),
    ]


YAML = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: {metric}
    aggregation: mean
    higher_is_better: true
{more}
"""


def test_a_task_of_the_harness_in_a_file_has_the_harnesss_own_metric_and_is_cut_to_the_context(
    asked, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    file = write(
        tmp_path / "d.jsonl",
        *({"question": f"{'long ' * 30 if a == 3 else ''}{a}?", "answer": str(a)} for a in range(4)),
    )
    task = tmp_path / "own.yaml"
    more = 'generation_kwargs:\n  until: ["\\n"]\n  max_gen_toks: 5'
    task.write_text(YAML.format(name="own", file=file, kind="generate_until", metric="exact_match", more=more))
    model = Keyed({f"{a}?": str(a) if a < 2 else "no" for a in range(4)}, byte_tokenizer(), n_ctx=60)
    found = asked(model, Settings(parse(str(task))))
    assert found.scored == []
    assert found.results["results"]["own"]["exact_match,none"] == pytest.approx(0.5)
    assert found.notes == ["own: 1 requests were cut on the left to the context of 60 tokens, as the harness does"]


def test_a_task_of_the_harness_that_runs_programs_is_refused(asked, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    file = write(tmp_path / "d.jsonl", {"question": "1?", "answer": "1"})
    task = tmp_path / "unsafe.yaml"
    more = 'unsafe_code: true\ngeneration_kwargs:\n  until: ["\\n"]'
    task.write_text(YAML.format(name="unsafe", file=file, kind="generate_until", metric="exact_match", more=more))
    with pytest.raises(UserError, match="marked as unsafe"):
        asked(Keyed({}, byte_tokenizer()), Settings(parse(str(task)), run_code=True))
