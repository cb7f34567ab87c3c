"""Our model for the harness gives what the harness's own gives, in batches; answers come back from disk."""

from __future__ import annotations

import pytest

pytest.importorskip("lm_eval", reason="needs the extra [eval] (lm-evaluation-harness)")

from lm_eval.api.instance import Instance
from transformers import AutoModelForCausalLM, AutoTokenizer

from nca_interp.data.text.tokenizer import open_tokenizer
from nca_interp.evaluate.harness import Answers, Ours
from nca_interp.evaluate.sampling import SAMPLINGS
from tests.analysis.reasoning.checkpoints import checkpoint

TEXTS = [
    "a",
    "the cat",
    "one two three four ",
    "x" * 40,
    "Question: 1 + 1?\nAnswer:",
    "two  spaces ",
    "ü and ß",
    "end.",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("harness") / "model")


def ours(folder, answers, **more):
    model = AutoModelForCausalLM.from_pretrained(folder)
    return Ours(
        model,
        open_tokenizer(folder),
        "x",
        160,
        Answers(answers, "all"),
        sampling=SAMPLINGS["greedy"],
        seed=0,
        batch=3,
        **more,
    )


def theirs(folder):
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    return huggingface.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1)


def test_likelihoods_and_greedy_answers_are_those_of_the_harnesss_own_model(folder, tmp_path):
    pairs = [(context, f" {text[:9]}") for context in ["", *TEXTS] for text in TEXTS[:4]]
    scored = [Instance("loglikelihood", {}, pair, 0, ("t", i, 1)) for i, pair in enumerate(pairs)]
    settings = {"until": ["\n"], "max_gen_toks": 12, "do_sample": False}
    asked = [Instance("generate_until", {}, (text, dict(settings)), 0, ("t", i, 1)) for i, text in enumerate(TEXTS)]
    mine, own = ours(folder, tmp_path), theirs(folder)
    wanted = own.loglikelihood(scored, disable_tqdm=True)
    found = mine.loglikelihood(scored)
    assert [f[0] for f in found] == pytest.approx([w[0] for w in wanted], abs=1e-3)
    assert [f[1] for f in found] == [w[1] for w in wanted]
    assert mine.generate_until(asked) == own.generate_until(asked, disable_tqdm=True)
    rolling = [Instance("loglikelihood_rolling", {}, (text * 9,), 0, ("t", i, 1)) for i, text in enumerate(TEXTS[1:4])]
    assert mine.loglikelihood_rolling(rolling) == pytest.approx(
        own.loglikelihood_rolling(rolling, disable_tqdm=True), abs=1e-2
    )


def test_what_is_on_disk_is_not_asked_again(folder, tmp_path):
    asked = [
        Instance("generate_until", {}, (text, {"until": ["\n"], "max_gen_toks": 6}), 0, ("t", i, 1))
        for i, text in enumerate(TEXTS)
    ]
    first = ours(folder, tmp_path).generate_until(asked)
    again = ours(folder, tmp_path)
    again.model = None
    assert again.generate_until(asked) == first
    other = [Instance("generate_until", {}, (TEXTS[0], {"until": ["\n"], "max_gen_toks": 7}), 0, ("t", 0, 1))]
    with pytest.raises(AttributeError):
        again.generate_until(other)
