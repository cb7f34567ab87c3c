"""Batched answers with a cache are those of the model alone, one at a time; draws follow the distribution and depend on nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from nca_interp.evaluate.generate import Request, choose, generate, groups
from nca_interp.evaluate.sampling import SAMPLINGS, Sampling

LETTERS = "abcdefghijklmnopqrst"
END = 19


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(LETTERS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    made = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        made.lm_head.weight.mul_(20)
    return made


def decode(ids: list[int]) -> str:
    return "".join(LETTERS[i] for i in ids)


def requests(n: int = 7, draws: int = 1, room: int = 12, until: tuple[str, ...] = ()) -> list[Request]:
    rng = np.random.default_rng(0)
    return [
        Request(
            tuple(rng.integers(0, 18, 3 + 2 * (i % 4)).tolist()),
            tuple(100 * i + d for d in range(draws)),
            room,
            until,
            i,
        )
        for i in range(n)
    ]


@torch.no_grad()
def alone(model, request: Request) -> str:
    """Greedy, without a cache and without padding."""
    ids = list(request.prompt)
    for _ in range(request.room):
        token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token == END:
            break
        ids.append(token)
    return decode(ids[len(request.prompt) :])


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_greedy_answers_are_those_without_batch_and_cache(model, batch):
    asked = requests()
    found = dict(generate(model, decode, asked, SAMPLINGS["greedy"], END, batch))
    assert found == {r.index: [alone(model, r)] for r in asked}


def test_a_draw_depends_on_its_seed_only(model):
    asked = requests(draws=3)
    whole = dict(generate(model, decode, asked, SAMPLINGS["paper"], END, 64))
    assert dict(generate(model, decode, asked, SAMPLINGS["paper"], END, 2)) == whole
    assert dict(generate(model, decode, asked[::-1][:4], SAMPLINGS["paper"], END, 5)) == {
        r.index: whole[r.index] for r in asked[-4:]
    }
    assert any(len(set(texts)) > 1 for texts in whole.values())


def test_answers_end_before_a_stop_string_and_at_their_room(model):
    free = dict(generate(model, decode, requests(room=30), SAMPLINGS["paper-gsm8k"], END, 8))
    stop = max(free.values(), key=lambda t: len(t[0]))[0][2:4]
    stopped = dict(generate(model, decode, requests(room=30, until=(stop,)), SAMPLINGS["paper-gsm8k"], END, 8))
    assert stopped == {i: [t[0].split(stop)[0]] for i, t in free.items()}
    assert all(
        len(t[0]) <= 4 for t in dict(generate(model, decode, requests(room=4), SAMPLINGS["greedy"], END, 8)).values()
    )


@pytest.mark.parametrize("sampling", [Sampling(0.4, 0.95), Sampling(0.6, 1.0), Sampling(1.0, 0.5)])
def test_draws_follow_the_nucleus_of_the_tempered_distribution(sampling):
    logits = torch.tensor([0.1, 2.0, 1.0, 1.9, -3.0])
    p = torch.softmax(logits.double() / sampling.temperature, 0)
    order = p.argsort(descending=True)
    kept = order[: int((p[order].cumsum(0) < sampling.top_p).sum()) + 1]
    wanted = torch.zeros(5, dtype=torch.double)
    wanted[kept] = p[kept] / p[kept].sum()
    uniform = (torch.arange(20_000, dtype=torch.double) + 0.5) / 20_000
    drawn = choose(logits.expand(20_000, 5), sampling, uniform)
    assert torch.allclose(torch.bincount(drawn, minlength=5).double() / 20_000, wanted, atol=1e-3)


def test_groups_fill_a_batch_and_lose_nobody():
    found = list(groups(requests(20, draws=4), 16))
    assert sorted(r.index for g in found for r in g) == list(range(20))
    assert max(sum(len(r.draws) for r in g) for g in found) <= 16
