"""Heads across the swap: a hand-built induction circuit of which one part decays, and the rules that name what went first."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from nca_interp.analysis.causes.resume import Trunk
from nca_interp.analysis.collection.run import Run
from nca_interp.analysis.stimuli.base import Subject, repeated_tokens
from nca_interp.analysis.survival import fates, tables
from nca_interp.analysis.survival.components import circuit
from nca_interp.analysis.survival.fates import (
    Span,
    effect_bound,
    fate,
    first_lost,
    half_lost,
    losing,
    over_seeds,
    using,
)
from nca_interp.analysis.survival.measure import Start, measure_heads, weight_norms
from nca_interp.analysis.survival.tables import survival_tables
from tests.analysis.models import tiny

TOKENS, WIDTH, PAIRS = 24, 64, 6
SUBJECT = Subject("planted", TOKENS, 64)


def planted_llama() -> Any:
    """Head 0.0 attends to the previous token by position alone, 1.0 to what followed the earlier occurrence, and copies it.

    Stream: token one-hot, the previous token's (written by 0.0), a constant. The rotary base is so large that the last 24 pairs of a
    head hardly turn: they hold tokens; the first six tell positions apart.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=TOKENS, hidden_size=WIDTH, intermediate_size=4, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=64, max_position_embeddings=64, rope_parameters={"rope_type": "default", "rope_theta": 1e12},
        tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    one, before, constant = slice(0, TOKENS), slice(TOKENS, 2 * TOKENS), 2 * TOKENS
    eye, content = torch.eye(TOKENS), slice(8, 8 + TOKENS)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        model.model.embed_tokens.weight[:, one] = eye
        model.model.embed_tokens.weight[:, constant] = 1.0
        model.lm_head.weight[:, one] = 3 * eye
        first, second = (layer.self_attn for layer in model.model.layers)
        for pair in range(PAIRS):
            angle = 1e12 ** (-pair / 32)
            first.q_proj.weight[pair, constant] = 5 * math.cos(angle)
            first.q_proj.weight[pair + 32, constant] = -5 * math.sin(angle)
            first.k_proj.weight[pair, constant] = 1.0
        first.v_proj.weight[:TOKENS, one] = eye
        first.o_proj.weight[before, :TOKENS] = eye / 5.66
        second.q_proj.weight[content, one] = 6 * eye
        second.k_proj.weight[content, before] = eye
        second.v_proj.weight[:TOKENS, one] = eye
        second.o_proj.weight[one, :TOKENS] = eye
    return model


BATCH = repeated_tokens(12, sequences=4).build(SUBJECT)


def test_a_whole_circuit_has_all_its_parts():
    found = circuit(Trunk(planted_llama()), BATCH)
    assert found.previous[0, 0] > 0.9
    assert found.induction[1, 0] > 0.9
    assert found.matching[1, 0] > 0.9
    assert found.copying[1, 0] > 1
    assert found.partners() == [None, (0, 0)]
    assert found.matching[0].isnan().all()
    assert found.copying[1, 1] == 0


def _decay(model: Any, part: str, share: float) -> None:
    first, second = (layer.self_attn for layer in model.model.layers)
    weight = {"input": first.q_proj, "matching": second.k_proj, "copying": second.o_proj}[part].weight
    with torch.no_grad():
        weight.mul_(share)


@pytest.mark.parametrize("part", ["input", "matching", "copying"])
def test_the_part_that_decays_is_named_first(part):
    whole = circuit(Trunk(planted_llama()), BATCH)
    course = []
    for share in (1.0, 0.7, 0.2, 0.05, 0.0):
        model = planted_llama()
        _decay(model, part, share)
        course.append(circuit(Trunk(model), BATCH, whole.partners()))

    def values(of: str) -> list[float]:
        if of == "input":
            return [float(c.previous[0, 0]) for c in course]
        return [float(getattr(c, of)[1, 0]) for c in course]

    starts = {"input": whole.previous[0, 0], "matching": whole.matching[1, 0], "copying": whole.copying[1, 0]}
    spans = {name: half_lost(float(start), values(name), fates.LEAST[name]) for name, start in starts.items()}
    assert first_lost(spans) == part, spans
    for other in {"input", "matching", "copying"} - {part}:
        assert min(values(other)) > 0.8 * float(starts[other])  # the others are as they were


def test_attention_is_the_models_own():
    model = tiny("llama-gqa")
    subject = Subject("tiny", 97, 96, frozenset({0, 1, 2}))
    batch = repeated_tokens(16, sequences=3).build(subject)
    found = circuit(Trunk(model), batch)
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        maps = model(torch.from_numpy(batch.inputs), output_attentions=True).attentions
    for layer, own in enumerate(maps):
        queries = np.arange(16, 32)
        assert torch.allclose(own[:, :, queries, queries - 15].mean((0, 2)), found.induction[layer], atol=1e-5)
        later = np.arange(1, 32)
        assert torch.allclose(own[:, :, later, later - 1].mean((0, 2)), found.previous[layer], atol=1e-5)


def test_norms_are_those_of_the_products():
    model = tiny("llama-gqa")
    trunk = Trunk(model)
    qk, ov = weight_norms(trunk)
    attn = model.model.layers[1].self_attn
    q, k, v = (getattr(attn, f"{n}_proj").weight for n in "qkv")
    o, d = attn.o_proj.weight, attn.head_dim
    for head in range(4):
        own, shared = slice(head * d, (head + 1) * d), slice(head // 2 * d, (head // 2 + 1) * d)
        assert float(qk[1, head]) == pytest.approx((q[own].T @ k[shared]).norm().item(), rel=1e-4)
        assert float(ov[1, head]) == pytest.approx((v[shared].T @ o[:, own].T).norm().item(), rel=1e-4)


def test_losing_the_planted_head_costs_what_it_gains():
    model = planted_llama()
    rows = measure_heads(model, SUBJECT, Start([None, (0, 0)], None))
    effect = rows[rows.quantity == "effect"].set_index(["layer", "head"])
    assert effect.loc[(1, 0), "low"] > 1
    assert effect.loc[(0, 0), "low"] > 1
    assert effect.loc[(1, 1), "value"] == pytest.approx(0, abs=1e-5)
    only = measure_heads(model, SUBJECT, Start([None, (0, 0)], {(1, 0)}))
    assert len(only[only.quantity == "effect"]) == 1


@pytest.mark.parametrize(
    ("scores", "state", "after", "by"),
    [
        ([0.9, 0.9, 0.8, 0.7], "never", 3, None),
        ([0.9, 0.9, 0.1, 0.1], "reached", 1, 2),
        ([0.1, 0.1, 0.1, 0.1], "from start", None, 0),
        ([0.9, 0.1, 0.9, 0.9], "never", 3, None),
    ],
)
def test_a_head_is_lost_between_two_checkpoints(scores, state, after, by):
    assert losing(scores, 0.3) == (state, after, by)
    assert losing([*scores, math.nan], 0.3) is None


def test_used_needs_more_than_an_ordinary_head_and_more_than_nothing():
    bounds = [0.1] * 4
    assert using([0.0, 0.5, 0.5, 0.5], [-0.1, 0.2, 0.2, 0.2], bounds).by == 1  # type: ignore[union-attr]
    assert using([0.5] * 4, [-0.1] * 4, bounds).state == "never"  # type: ignore[union-attr]
    assert using([0.05] * 4, [0.01] * 4, bounds).state == "never"  # type: ignore[union-attr]
    assert using([0.5], [0.2], [math.nan]) is None
    assert math.isnan(effect_bound([0.1] * 4))
    assert effect_bound([0.1] * 9) == pytest.approx(0.1)
    assert effect_bound([0.0, 0.1, -0.1, 0.05, -0.05, 9.0]) < 1  # one head that matters does not hide others


def test_heads_without_an_effect_are_rarely_called_used():
    rng, called = np.random.default_rng(0), 0
    for _ in range(200):
        draws = rng.normal(size=(10, 12, 8))  # checkpoint, head, sequence
        means, halves = draws.mean(-1), 2.365 * draws.std(-1, ddof=1) / math.sqrt(8)
        bounds = [effect_bound(row[1:]) for row in means]
        called += fates.used_at_end(means[:, 0], means[:, 0] - halves[:, 0], bounds)
    assert called / 200 <= 0.01


def test_words():
    never, gone = losing([0.9, 0.9], 0.3), losing([0.1, 0.1], 0.3)
    assert [fate(never, True), fate(never, False), fate(gone, False), fate(gone, True)] == [
        "used", "kept", "lost", "lost, yet used",
    ]  # fmt: skip
    assert [fate(None, True), fate(None, None)] == ["used", "not measured"]
    assert first_lost({"input": Span(0, 1), "matching": Span(0, 1)}) == "cannot tell: input or matching"
    assert first_lost({"input": Span(0, 1), "matching": Span(1, 2)}) == "input"
    assert first_lost({"input": Span(3, math.inf), "copying": Span(3, math.inf)}) == "none"
    assert first_lost({"input": None}) == ""
    assert half_lost(0.05, [0.0, 0.0], 0.1) is None
    assert over_seeds(["lost"] * 5).word == "no verdict (fewer than 6 seeds)"
    assert over_seeds(["lost"] * 6).word == "lost"
    assert over_seeds(["lost"] * 5 + ["kept"] * 5).word == "no verdict"


STEPS = [0, 10, 20, 30]


def _run(stage: str, regime: str, parent: str | None) -> Run:
    trained: Any = SimpleNamespace(rows=[], status={"state": "done"})
    run_id, config = f"{stage}.{regime}.s0", SimpleNamespace()
    return Run(
        run_id, Path(run_id), regime=regime, domain="web" if stage == "pt" else "", seed=0, stage=stage, parent=parent,
        directories={s: Path(f"{run_id}/{s}") for s in STEPS}, tokens_at={s: 100 * s for s in STEPS}, trained=trained, config=config,  # type: ignore[arg-type]
    )  # fmt: skip


def test_arms_of_one_parent_follow_the_same_heads(monkeypatch):
    ppt = _run("ppt", "nca", None)
    arms = [_run("pt", "nca", ppt.id), _run("pt", "shrunk", ppt.id)]
    scores = {ppt.id: [0.1, 0.2, 0.8, 0.8], arms[0].id: [0.7, 0.7, 0.7, 0.7], arms[1].id: [0.6, 0.6, 0.1, 0.1]}
    probes = pd.DataFrame(
        [
            {**run.at(step), "probe": "induction", "layer": 1, "head": h, "value": v if h == 2 else 0.05, "chance": 0.02, "null_95": 0.1}
            for run in (ppt, *arms)
            for step, v in zip(STEPS, scores[run.id], strict=True)
            for h in range(8)
        ]
    )  # fmt: skip

    def kept(run: Run, step: int, parent: Run) -> pd.DataFrame:
        used = 1.0 if run is arms[0] else 0.0
        rows = [(1, h, "effect", used if h == 2 else 0.01 * h, 0.5 * used, 2.0) for h in range(8)]
        parts = {"input": 0.9, "matching": 0.8 if run is not arms[1] or step == 0 else 0.1, "copying": 2.0}
        rows += [(1, 2, name, value, math.nan, math.nan) for name, value in parts.items()]
        return pd.DataFrame(rows, columns=["layer", "head", "quantity", "value", "low", "high"])

    monkeypatch.setattr(tables, "kept_heads", kept)
    found = survival_tables([ppt, *arms], probes, {"induction": 0.3}, {})
    ends = found["fates"].set_index("regime")
    assert ends["head"].tolist() == [2, 2]
    assert ends.fate.to_dict() == {"nca": "used", "shrunk": "lost"}
    assert ends.loc["shrunk", ["lost_after", "lost_by", "first_part"]].tolist() == [10, 20, "matching"]
    assert "is lost at step 20 (between 10 and 20); first to lose half: matching" in ends.loc["shrunk", "sentence"]
    assert ends.loc["nca", "first_part"] == "none"
    course = found["survival"]
    assert set(course.quantity) == {"score", "effect", "input", "matching", "copying"}
    assert course[course.quantity == "score"].start.unique().tolist() == [0.8]
    assert found["fate_seeds"].verdict.unique().tolist() == ["no verdict (fewer than 6 seeds)"]
    none = survival_tables([ppt, *arms], probes.assign(value=0.2), {"induction": 0.3}, {})
    assert none["fates"].empty
