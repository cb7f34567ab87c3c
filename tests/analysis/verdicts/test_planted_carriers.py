"""Whole studies in small: parents that learned with one part of the network only, grafted, trained, and judged by the verdict code."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from nca_interp.analysis.verdicts.contrasts import Values
from nca_interp.arms import head_arms, shapley_arms
from nca_interp.config import MODULES, ModelConfig
from nca_interp.graft import matched_heads
from nca_interp.model.graft import Geometry, role_of, slices
from nca_interp.model.llama import build
from nca_interp.model.swap import swap
from tests.analysis.verdicts.test_shares import tables_of
from tests.test_arms import NCA, study

VOCAB, SEEDS = 16, 3
CONFIG = ModelConfig(n_layers=2, d_model=32, n_heads=4, d_mlp=48, n_ctx=32, embed_std=1.0)
"""Smaller than the study of test_arms, whose arms it takes."""
HEADS = ((0, 1), (1, 2))


def copying(generator):
    """Rows whose token is that of four places before: attention to an offset."""
    return torch.randint(VOCAB, (8, 4), generator=generator).repeat(1, 6)


def mapping(generator):
    """Rows whose next token is a fixed function of the token: no other position is needed."""
    rows = [torch.randint(VOCAB, (8,), generator=generator)]
    for _ in range(23):
        rows.append((5 * rows[-1] + 3) % VOCAB)
    return torch.stack(rows, 1)


def learn(model, task, steps, seed, part):
    """Train in place the parameters of a part (attn, mlp, or single heads; None: all), in place; final loss on new rows."""
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for name, p in model.named_parameters():
        mask = torch.zeros_like(p)
        role = role_of(name)
        if part is None or (part == "attn" and role.kind in "qkvo") or part == role.kind:
            mask += 1
        elif isinstance(part, tuple) and role.kind in "qkvo":
            heads = [h for layer, h in part if layer == role.layer]
            for _, at in slices(role, heads, p.shape, Geometry.of(model.config)):
                mask[at] = 1
        masks[name] = mask
    trained = [p for name, p in model.named_parameters() if masks[name].any()]
    optimizer = torch.optim.Adam(trained, lr=1e-2 if part else 3e-4)

    def loss():
        rows = task(generator)
        return F.cross_entropy(model(input_ids=rows[:, :-1]).logits[:, 4:].flatten(0, 1), rows[:, 5:].flatten())

    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        for name, p in model.named_parameters():
            p.grad = p.grad * masks[name] if p.grad is not None else None
        optimizer.step()
    generator.manual_seed(1_000_000)  # all models are measured on the same rows
    with torch.no_grad():
        return sum(float(loss()) for _ in range(4)) / 4


def parents(task, part):
    """A parent a seed that begins as scratch does, embeddings included, and learned with one part only."""
    found = []
    for seed in range(SEEDS):
        model = build(CONFIG, VOCAB, seed, "pt")
        learn(model, task, 120, seed, part)
        found.append(model)
    return found


def outcome(arms, own, task):
    """What the verdict code says of these arms after a few steps of training on the task."""
    made, rows = study(*arms), []
    for regime in made.regimes:
        if regime.name == "dyck":
            continue
        for seed in range(SEEDS):
            if regime.source is None:
                model = build(CONFIG, VOCAB, seed, "pt")
            else:
                heads = (
                    regime.graft.heads
                    if regime.graft.matched is None
                    else matched_heads(regime.graft.heads, 4, regime.graft.matched).heads
                )
                model, _ = swap(own[seed], CONFIG, VOCAB, seed, graft=regime.graft, heads=heads)
            rows.append((regime.name, "web", seed, learn(model, task, 3, 100 + seed, None)))
    return tables_of(Values(pd.DataFrame(rows, columns=["regime", "domain", "seed", "value"]), "val_loss", 0.01), made)


@pytest.mark.parametrize(("task", "carrier"), [(copying, "attn"), (mapping, "mlp")])
def test_the_part_that_learned_is_the_one_that_carries(task, carrier):
    torch.manual_seed(0)
    found = outcome(shapley_arms(NCA), parents(task, carrier), task)
    rows = found["transfer"].set_index(["question", "parts"])
    gap = rows.gap.iloc[0]
    assert gap > 0.5
    for module in MODULES:
        own = module == carrier
        assert (rows.loc[("necessity", module)].verdict == "needed") is own
        assert (rows.loc[("sufficiency", module)].verdict == "carries some") is own
        assert rows.loc[("necessity", module)].effect == pytest.approx(gap if own else 0.0)
    shares = found["shapley"].query("quantity == 'share'").set_index("term").share
    assert dict(shares) == pytest.approx({m: float(m == carrier) for m in MODULES}, abs=1e-6)


def test_two_heads_that_learned_carry_it_and_others_of_their_layers_do_not():
    torch.manual_seed(0)
    arms = (*head_arms(NCA, "two", HEADS, 3), *head_arms(NCA, "two", HEADS, 3, "keep"))
    rows = outcome(arms, parents(copying, HEADS), copying)["transfer"].set_index("regime")
    assert rows.gap.iloc[0] > 0.5
    assert rows.verdict["nca-no-two"] == "needed"
    assert rows.verdict["nca-only-two"] == "carries some"
    assert rows.share["nca-no-two"] == pytest.approx(1)
    for n in range(3):
        assert rows.effect[f"nca-no-two-random-{n}"] == 0  # they never learned
        assert rows.effect[f"nca-only-two-random-{n}"] == 0
