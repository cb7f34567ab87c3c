"""Question-answer rows: the mask covers answers only, splits are disjoint, too long problems are dropped and counted."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pandas as pd
import pytest
from tokenizers import Tokenizer

from nca_interp.base import UserError
from nca_interp.cli.running import print_notes
from nca_interp.data.specs import ArithmeticSpec, QaSpec, TextSpec, TokenizerSpec
from nca_interp.data.text import arithmetic
from nca_interp.data.text.notes import notes
from nca_interp.data.text.qa import generate_qa, qa_prompt, write_qa
from nca_interp.data.tokens import TokenFile, write_tokens
from nca_interp.engine.graph import Job, TokensJob
from nca_interp.report.sections.cautions import _tokens

SIZES = {"n_train": 40, "n_val": 5, "n_test": 10}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("qa") / "text"
    spec = TextSpec(source="arithmetic:", tokenizer=TokenizerSpec(vocab_size=400), max_bytes=100_000)
    write_tokens(path, spec, n_train=10, n_val=2, seq_len=32, seed=0, threads=1)
    return path


@pytest.fixture(scope="module")
def gsm8k(root):
    folder = root.parent / "shared" / "data"
    if not (folder / "gsm8k_train.jsonl").is_file():
        pytest.skip(f"no GSM8K in {folder}")
    return folder


def test_mask_covers_the_answer_and_its_end_only(tmp_path, tokenizer):
    meta = write_qa(tmp_path / "qa", QaSpec(**SIZES), tokenizer, seq_len=300, seed=0)
    file = TokenFile.open(tmp_path / "qa")
    coder = Tokenizer.from_file(str(tmp_path / "qa" / "tokenizer.json"))
    pad = coder.token_to_id("<|pad|>")
    problems = {qa_prompt(p.question): p for p in generate_qa(QaSpec(**SIZES), 0).train}
    assert meta.mask_rule == "file"
    assert file.train.shape == file.train_mask.shape == (40, 301)
    assert file.val_mask.shape == (5, 301)
    for row, mask in zip(file.train, file.train_mask, strict=True):
        start, stop = mask.argmax(), len(mask) - mask[::-1].argmax()
        assert mask[start:stop].all()
        assert mask.sum() == stop - start
        problem = problems[coder.decode(row[:start].tolist())]
        assert coder.decode(row[start : stop - 1].tolist()) == f" {problem.answer}"
        assert row[stop - 1] == meta.end_id
        assert (row[stop:] == pad).all()


def test_generated_answers_are_right_and_splits_disjoint():
    qa = generate_qa(QaSpec(n_train=300, n_val=20, n_test=50, arithmetic=ArithmeticSpec(max_steps=4)), 1)
    questions = [p.question for split in (qa.train, qa.val, qa.test) for p in split]
    assert len(set(questions)) == len(questions) == 370
    for problem in [*qa.train, *qa.test]:
        lines = problem.answer.splitlines()
        assert lines[-1] == f"#### {problem.final}"
        for a, sign, b, result in re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)", problem.answer):
            assert eval(f"{a} {sign} {b}") == int(result)
        assert re.findall(r"\d+", lines[-2].replace("are left", "").split("=")[-1])[0] == problem.final
        assert 1 <= len(lines) - 1 <= 4
    assert any(len(p.answer.splitlines()) == 2 for p in qa.train)
    assert qa == generate_qa(QaSpec(n_train=300, n_val=20, n_test=50, arithmetic=ArithmeticSpec(max_steps=4)), 1)


def test_too_long_problems_are_dropped_and_counted(tmp_path, tokenizer):
    spec = QaSpec(n_train=60, n_val=10, n_test=10, arithmetic=ArithmeticSpec(max_steps=6))
    meta = write_qa(tmp_path / "qa", spec, tokenizer, seq_len=110, seed=0)
    assert meta.provenance["too_long"]["train"] > 0
    assert meta.n_train + meta.provenance["too_long"]["train"] == 60
    with pytest.raises(UserError, match="no train problem fits a row of 9 tokens"):
        write_qa(tmp_path / "none", spec, tokenizer, seq_len=8, seed=0)
    assert not (tmp_path / "none").exists()


def test_reuse_refusal_and_identical_writes(tmp_path, tokenizer):
    spec = QaSpec(**SIZES)
    a, b = (write_qa(tmp_path / n, spec, tokenizer, seq_len=200, seed=0) for n in "ab")
    assert a == b == write_qa(tmp_path / "a", spec, tokenizer, seq_len=200, seed=0)
    with pytest.raises(UserError, match="seed: the folder has 0, asked for 1"):
        write_qa(tmp_path / "a", spec, tokenizer, seq_len=200, seed=1)


def test_bad_files(tmp_path, tokenizer):
    path = tmp_path / "x.jsonl"
    for content, message in (
        ('{"question": "a?", "answer": "no mark"}', "record 1 needs"),
        ('{"question": "a?", "answer": "#### 1"}', "gives 0 training"),
        ("", "gives 0 training"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            write_qa(tmp_path / "qa", QaSpec(source=f"files:{path}", **SIZES), tokenizer, seq_len=64, seed=0)
    with pytest.raises(UserError, match="no such tokenizer"):
        write_qa(tmp_path / "qa", QaSpec(**SIZES), tmp_path / "nothing", seq_len=64, seed=0)


def test_too_few_different_problems_is_said(monkeypatch):
    for name in ("NAMES", "THINGS", "GROUPS"):
        monkeypatch.setattr(arithmetic, name, getattr(arithmetic, name)[:2])
    spec = QaSpec(n_train=10, n_val=3_000, n_test=10, arithmetic=ArithmeticSpec(digits=1, max_steps=1))
    with pytest.raises(UserError, match="gives 0 training, .* are needed"):
        generate_qa(spec, 0)


def test_gsm8k(tmp_path, tokenizer, gsm8k):
    spec = QaSpec(
        source=f"files:{gsm8k / 'gsm8k_train.jsonl'}", test_source=f"files:{gsm8k / 'gsm8k_test.jsonl'}",
        n_train=300, n_val=20, n_test=1000,
    )  # fmt: skip
    meta = write_qa(tmp_path / "qa", spec, tokenizer, seq_len=512, seed=0)
    assert meta.n_train + meta.provenance["too_long"]["train"] == 300
    items = [json.loads(line) for line in (tmp_path / "qa" / "test.jsonl").read_text().splitlines()]
    assert len(items) == 1000
    official = [json.loads(line) for line in (gsm8k / "gsm8k_test.jsonl").read_text().splitlines()]
    assert items[0]["question"] == official[0]["question"].strip()
    assert items[0]["final_answer"] == official[0]["answer"].split("####")[1].strip()
    own = generate_qa(QaSpec(source=spec.source, n_train=7000, n_val=20, n_test=300), 0)
    assert len(own.test) == 300
    assert not {p.question for p in own.test} & {p.question for p in own.train}


def test_what_was_left_out_is_said(tmp_path, tokenizer, capsys):
    """Nothing after the last "####": no answer to learn or to compare with. All is counted, and said where one looks."""
    long = "What is it? " * 40
    records = [
        {
            "question": f"{long if i % 4 == 1 else ''}Is it {i}?",
            "answer": f"It is.\n####{'' if i % 4 == 0 else f' {i}'}",
        }
        for i in range(120)
    ]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    spec = QaSpec(source=f"files:{tmp_path / 'x.jsonl'}", n_train=60, n_val=10, n_test=20)
    meta = write_qa(tmp_path / "tokens" / "qa", spec, tokenizer, seq_len=64, seed=0)
    long = meta.provenance["too_long"]
    assert meta.provenance["no_answer"] == 30
    assert (meta.n_train + long["train"], meta.n_val + long["val"]) == (60, 10)
    assert sum(long.values()) == 30
    tests = [json.loads(line) for line in (tmp_path / "tokens" / "qa" / "test.jsonl").read_text().splitlines()]
    assert len(tests) == 20
    assert all(item["final_answer"] for item in tests)
    told = notes(meta)
    assert told[0] == (
        f"{long['train']} of 60 training problems are longer than the context of 64 tokens and were left out, "
        f"{meta.n_train} remain"
    )
    assert '30 problems with nothing after the last "####" were left out' in told
    assert len(told) == 2 + bool(long["val"]) + bool(long["test"])
    job = TokensJob("tokens/qa", {}, 60, 10, 64, 0)
    print_notes(SimpleNamespace(path=tmp_path), SimpleNamespace(jobs=[Job("tokens:qa", "tokens", job, (), 0.0)]))
    assert capsys.readouterr().out.splitlines() == [f"note: qa: {note}" for note in told]
    rows = pd.DataFrame({"source": "qa", "description": meta.description, "note": told})
    assert [s for s in _tokens(SimpleNamespace(notes=rows)) if "training problems" in s] == [
        f"qa ({meta.description}): {told[0]}."
    ]
    assert notes(write_qa(tmp_path / "all", QaSpec(**SIZES), tokenizer, seq_len=300, seed=0)) == []
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records[::4]))
    with pytest.raises(UserError, match='30 with nothing after the last "####" were left out'):
        write_qa(tmp_path / "none", spec, tokenizer, seq_len=64, seed=0)


def test_what_was_added_later_changes_nothing_where_it_is_not_used():
    """Folder names and hashes of earlier studies are made of this."""
    assert set(QaSpec().model_dump(mode="json")) == {
        "source",
        "test_source",
        "n_train",
        "n_val",
        "n_test",
        "arithmetic",
    }
    changed = QaSpec(shots=2, choose="best", mark=None)
    assert QaSpec.model_validate(changed.model_dump(mode="json")) == changed


def test_context_examples_are_training_problems_and_never_the_problem_itself(tmp_path, tokenizer):
    spec = QaSpec(source="puzzle:chain:1", n_train=30, n_val=5, n_test=10, shots=3)
    write_qa(tmp_path / "qa", spec, tokenizer, seq_len=200, seed=0)
    file, qa = TokenFile.open(tmp_path / "qa"), generate_qa(spec, 0)
    coder = Tokenizer.from_file(str(tmp_path / "qa" / "tokenizer.json"))
    training = {p.question: p.answer for p in qa.train}
    asked = [json.loads(line)["prompt"] for line in (tmp_path / "qa" / "test.jsonl").read_text().splitlines()]
    rows = [coder.decode(row[: mask.argmax()].tolist()) for row, mask in zip(file.train, file.train_mask, strict=True)]
    for prompt in [*asked, *rows]:
        *shown, question = prompt.split("\n\n")
        assert len(shown) == 3
        pairs = [s.removeprefix("Question: ").split("\nAnswer: ") for s in shown]
        assert all(training[q] == a for q, a in pairs)
        own = question.removeprefix("Question: ").removesuffix("\nAnswer:")
        assert own not in [q for q, _ in pairs]
    for row, mask in zip(file.train, file.train_mask, strict=True):
        supervised = coder.decode(
            [t for t, m in zip(row.tolist(), mask.tolist(), strict=True) if m and t != file.meta.end_id]
        )
        assert supervised.startswith(" #### "), "the loss is on the last answer alone"
    with pytest.raises(UserError, match="shots: 8 context examples, but there are 6 training problems"):
        write_qa(tmp_path / "few", spec.model_copy(update={"n_train": 6, "shots": 8}), tokenizer, seq_len=200, seed=0)


def test_other_columns_and_marks(tmp_path, tokenizer):
    file = tmp_path / "f.jsonl"
    file.write_text("".join(json.dumps({"q": f"{i}+1?", "a": i + 1}) + "\n" for i in range(20)))
    spec = QaSpec(
        source=f"files:{file}", question_column="q", answer_column="a", mark=None, n_train=10, n_val=2, n_test=3
    )
    qa = generate_qa(spec, 0)
    assert {p.answer for p in qa.train} <= {f"#### {i + 1}" for i in range(20)}
    assert write_qa(tmp_path / "qa", spec, tokenizer, seq_len=64, seed=0).n_train == 10
    with pytest.raises(UserError, match=r'record 1 needs "question" and "a"'):
        generate_qa(spec.model_copy(update={"question_column": "question"}), 0)
    marked = tmp_path / "m.jsonl"
    marked.write_text("".join(json.dumps({"question": f"{i}?", "answer": f"so => {i}"}) + "\n" for i in range(8)))
    found = generate_qa(QaSpec(source=f"files:{marked}", mark="=>", n_train=4, n_val=1, n_test=2), 0)
    assert {p.answer for p in found.train} <= {f"so #### {i}" for i in range(8)}


def test_a_set_of_the_hub_is_read_like_a_file(tmp_path):
    import datasets

    rows = [{"question": f"{i} + 2?", "answer": f"#### {i + 2}"} for i in range(12)]
    datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(rows[:9]), "test": datasets.Dataset.from_list(rows[9:])}
    ).save_to_disk(str(tmp_path / "set"))
    source = f"hf:{tmp_path / 'set'}"
    qa = generate_qa(QaSpec(source=source, test_source=source, n_train=6, n_val=2, n_test=3), 0)
    assert {p.question for p in qa.test} == {f"{i} + 2?" for i in (9, 10, 11)}
    assert len(qa.train) == 6
    with pytest.raises(UserError, match=r"source: 'hf:no/such' .*check the name and the network"):
        generate_qa(QaSpec(source="hf:no/such"), 0)


@pytest.mark.parametrize("source", ["puzzle:nothing", "puzzle:recall:99", "puzzle:recall:x"])
def test_puzzles_that_there_are_not_are_refused(source):
    with pytest.raises(ValueError, match="legal"):
        QaSpec(source=source)
