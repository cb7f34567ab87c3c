"""Exact match: what counts as an answer, and that decoding does not depend on batching."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tokenizers import Tokenizer, decoders, models
from transformers import LlamaConfig

from nca_interp.config import Domain, ModelConfig, Regime, StageConfig, Study, paired_seeds
from nca_interp.data.specs import QaSpec, TextSpec, TokenizerSpec
from nca_interp.engine.plan import make_plan
from nca_interp.model.checkpoint import load_model, save_model
from nca_interp.model.llama import build
from nca_interp.store import StudyDir, write_json
from nca_interp.train.batches import batch_rows
from nca_interp.train.finetune import chosen_step, exact_match, extract_answer, normalise
from nca_interp.train.setup import initial_model
from tests.train.conftest import make_run, study  # noqa: F401


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3 + 4 = 7\n#### 7", "7"),
        ("#### 1,234.", "1234"),
        ("#### $12\nQ: next", "12"),
        ("first #### 3 then #### 4", "4"),
        ("no mark", None),
        ("####", None),
        ("####   \n", None),
    ],
)
def test_extract_answer(text, answer):
    assert extract_answer(text) == answer


def test_normalise_keeps_signs_and_decimals():
    assert normalise(" -1,000.50 ") == "-1000.50"


class Spelling(torch.nn.Module):
    """Answers every prompt with the same tokens."""

    def __init__(self, says: list[int], vocab: int) -> None:
        super().__init__()
        self.says, self.vocab, self.at = says, vocab, 0
        self.config, self.device = LlamaConfig(max_position_embeddings=64), torch.device("cpu")

    def forward(self, input_ids, past_key_values, use_cache):
        self.at = self.at + 1 if past_key_values else 0
        logits = torch.zeros(*input_ids.shape, self.vocab)
        logits[..., self.says[min(self.at, len(self.says) - 1)]] = 1.0
        return SimpleNamespace(logits=logits, past_key_values=True)


@pytest.mark.parametrize("name", ["<|endoftext|>", "</s>", "[EOT]"])
def test_an_answer_ends_at_the_tokenizers_own_end_token(tmp_path, name):
    """What the end token is called does not matter; neither does text that looks like it."""
    letters = {c: i for i, c in enumerate("#0123456789QAuestionwr:? \n<|df>/x[EOT]")}
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    end = tokenizer.add_special_tokens([name]) and tokenizer.token_to_id(name)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    write_json(tmp_path / "meta.json", {"end_id": end})
    prompt = f"Question: {name}?\nAnswer:"
    item = {"prompt": prompt, "question": f"{name}?", "answer": "#### 7", "final_answer": "7"}
    (tmp_path / "test.jsonl").write_text(json.dumps(item) + "\n")
    says = [*tokenizer.encode(" #### 7").ids, end, *tokenizer.encode("#### 9").ids]
    result = exact_match(Spelling(says, end + 1), tmp_path)
    assert (result["correct"], result["results"][0]["answer"]) == (1, "7")
    result = exact_match(Spelling([i for i in says if i != end], end + 1), tmp_path)
    assert result["correct"] == 0, "the end token decides"


def test_what_an_exported_configuration_names_does_not_change_training(study):  # noqa: F811
    """transformers would not train the embedding of the padding token that config.json names."""
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate("abcdef")}, merges=[]))
    tokenizer.save(str(study.path / "tokenizer.json"))
    write_json(study.path / "meta.json", {"end_id": 5, "pad_id": 3})
    parent, run = study.run("pt.x"), make_run(id="ft.x", stage="ft", parent="pt.x")
    save_model(build(run.model, 16, 0, "pt"), parent.checkpoint(4), {}, study.path / "tokenizer.json")
    parent.set_status("done", 4)
    assert load_model(parent.checkpoint(4)).get_input_embeddings().padding_idx == 3
    model = initial_model(study, run, 16).model
    model.get_input_embeddings()(torch.tensor([[3]])).sum().backward()
    assert (model.get_input_embeddings().weight.grad[3] == 1).all()


def test_the_checkpoint_is_chosen_by_the_validation_loss(study):  # noqa: F811
    run = study.run("ft.x")
    run.path.mkdir(parents=True)
    for step, loss in ((0, 3.0), (2, 1.0), (3, 0.5), (4, 1.0), (6, None), (8, 2.0)):
        run.append_metrics({"step": step, "val_loss": loss})
    assert chosen_step(run, [0, 2, 4, 8], "best") == 2, "step 3 has no checkpoint, 4 is no better"
    assert chosen_step(run, [0, 2, 4, 8], "last") == 8
    assert chosen_step(run, [5, 6], "best") == 6, "nothing was validated"


def test_epochs_pass_over_the_problems_so_often_validated_and_kept_after_each():
    qa = QaSpec(source="puzzle:recall:1", n_train=50, n_val=8, n_test=8, choose="best")
    text = TextSpec(source="arithmetic:", tokenizer=TokenizerSpec(vocab_size=300), max_bytes=30_000)
    stage = StageConfig(steps=5, batch_size=16, lr=1e-3, checkpoints="ends", horizon=10)
    domain = Domain(name="d", label="D", source=text, qa=qa)
    scratch = Regime(name="scratch", label="scratch", checkpoints="ends")
    asked = Study(
        name="s", title="S", model=ModelConfig(n_layers=1, d_model=16, n_heads=1, d_mlp=32, n_ctx=64), regimes=(scratch,),
        domains=(domain,), seeds=paired_seeds(1), ppt=stage, pt=stage, ft=stage,
    )  # fmt: skip
    assert asked.ft_of(domain) == stage, "null: as the stage says"

    def with_epochs(**changes):
        return asked.model_copy(update={"domains": (domain.model_copy(update={"epochs": 3, **changes}),)})

    runs = {run.stage: run.config for run in make_plan(with_epochs(), "fp32", analyze=False).runs}
    assert runs["pt"] == stage
    ft = runs["ft"]
    assert (ft.steps, ft.horizon, ft.eval_every) == (12, 24, 4)
    assert ft.checkpoint_steps() == [0, 4, 8, 12], "also of a regime that keeps the ends"
    rows = [batch_rows(50, 16, 0, step) for step in range(ft.steps)]
    seen = np.bincount(np.concatenate(rows), minlength=50)
    assert seen.min() >= 3, "each problem at least three times"
    last = with_epochs(qa=qa.model_copy(update={"choose": "last"}))
    assert next(r.config for r in make_plan(last, "fp32", analyze=False).runs if r.stage == "ft").checkpoints == "ends"
    for wrong in ({"epochs": 0}, {"epochs": 3, "qa": None}):
        with pytest.raises(ValidationError, match="epochs"):
            Study.model_validate(asked.model_dump() | {"domains": [domain.model_dump() | wrong]})


def test_a_study_of_before_there_were_epochs_is_the_same_study(tmp_path):
    from nca_interp import discover

    smoke = discover.find("runs", "smoke").value()
    saved = smoke.model_dump(mode="json")
    for domain in saved["domains"]:
        del domain["epochs"]
    assert Study.model_validate(saved) == smoke
    directory = StudyDir(tmp_path / "s")
    directory.claim(saved, {"command": "test"})
    assert directory.claim(smoke.model_dump(mode="json"), {}) is False, "nothing is said to have changed"
