"""Roles of tensors and norms of heads of families that name nothing as Llama does."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.tiny import VOCAB, families, tiny_model
from nca_interp.analysis.attention.access import access
from nca_interp.analysis.attention.anatomy import Block, watch
from nca_interp.analysis.similarity.study import run_head_norms
from nca_interp.analysis.similarity.weights import head_norms, model_head_norms
from nca_interp.analysis.stimuli.base import NotApplicable
from nca_interp.model.roles import model_roles, named_role, roles_of
from tests.analysis.models import tiny

ATTEND = (
    "gpt2",
    "gpt_neox",
    "gpt_neo",
    "gptj",
    "qwen2",
    "qwen3",
    "opt",
    "falcon",
    "bloom",
    "phi",
    "gemma2",
    "mixtral",
    "olmo2",
    "stablelm",
)


def run_of(directory, steps=(0,)):
    return SimpleNamespace(
        last=directory, steps=list(steps), checkpoint=lambda step: directory, at=lambda step: {"run": "r", "step": step}
    )


@pytest.mark.parametrize("family", ATTEND)
def test_roles_agree_with_the_parts_that_a_pass_finds(family):
    model = tiny_model(families()[family])
    role = model_roles(model)
    names = {id(p): role(name) for name, p in model.named_parameters(remove_duplicate=False)}
    access(model)
    blocks = watch(model, torch.randint(3, VOCAB, (1, 8)).numpy()).blocks
    assert len(blocks) == 2
    for layer, (attention, block) in enumerate(blocks.items()):
        held = {names[id(p)] for p in attention.parameters()}
        assert {r.layer for r in held} == {layer}
        assert {r.kind for r in held} <= {"attn", "norm"}
        if not isinstance(block, Block):  # of a BLOOM it is not known where the attention writes
            assert family == "bloom"
            continue
        assert names[id(block.projection.weight)] == ("attn", layer)
        others = {names[id(p)].kind for p in block.layer.parameters()} - {"attn", "norm"}
        assert others == {"mlp"}
    assert names[id(model.get_input_embeddings().weight)] == ("embed", None)
    assert names[id(model.get_output_embeddings().weight)].kind == "embed"
    assert "other" not in {r.kind for r in names.values()}


def test_of_a_llama_they_are_those_by_its_names():
    model = tiny("llama")
    role = model_roles(model)
    assert all(role(name) == named_role(name) for name, _ in model.named_parameters())


def test_a_recurrent_mixer_is_no_attention():
    model = tiny_model(families()["mamba"])
    kinds = {model_roles(model)(name).kind for name, _ in model.named_parameters()}
    assert kinds == {"mixer", "norm", "embed"}


@pytest.mark.parametrize("family", ["gpt2", "neox", "qwen3"])
def test_names_in_files_are_found(tmp_path, family):
    tiny(family).save_pretrained(tmp_path)
    role = roles_of(tmp_path)
    kinds = {role(name).kind for name in load_file(tmp_path / "model.safetensors")}
    assert kinds == {"attn", "mlp", "norm", "embed"}
    assert (
        role("h.1.attn.c_attn.weight" if family == "gpt2" else "layers.1.input_layernorm.weight").layer == 1
    )  # a base model's


@pytest.mark.parametrize("family", ["llama", "llama-gqa", "mistral"])
def test_norms_by_unit_vectors_are_those_of_the_tensors(family):
    model = tiny(family)
    for name, p in model.named_parameters():
        if "layernorm" in name:
            p.data.uniform_(0.5, 1.5)
    pd.testing.assert_frame_equal(model_head_norms(model), head_norms(model.state_dict(), 4), rtol=2e-3)


def test_norms_of_a_gpt2_are_those_of_its_fused_matrices():
    model = tiny("gpt2")
    found = model_head_norms(model).set_index(["layer", "head"])
    block = model.transformer.h[1]
    d = block.ln_1.weight.shape[0]
    centre = torch.eye(d) - 1 / d
    q, k, v = (centre @ block.ln_1.weight.diag() @ w for w in block.attn.c_attn.weight.split(d, dim=1))
    part = slice(16, 24)
    ov = (v[:, part] @ block.attn.c_proj.weight[part]).norm()
    qk = (q[:, part] @ k[:, part].T).norm()
    free = (1 - 1 / d) ** 0.5  # LayerNorm divides a unit vector by its deviation from its mean
    assert found.loc[1, 2].ov_norm * free == pytest.approx(ov.item(), rel=2e-3)
    assert found.loc[1, 2].qk_norm * free**2 == pytest.approx(qk.item(), rel=2e-3)


def test_what_cannot_be_read_is_left_out_or_said(tmp_path):
    norms = model_head_norms(tiny("qwen3"))  # queries and keys have norms of their own
    assert norms.qk_norm.isna().all()
    assert (norms.ov_norm > 0).all()
    with pytest.raises(NotApplicable):
        model_head_norms(tiny("gemma2"))
    tiny("gemma2").save_pretrained(tmp_path)
    frame = run_head_norms(run_of(tmp_path))
    assert frame.empty
    assert "normalises what its attention writes" in frame.attrs["not_read"]


def test_heads_of_a_run_are_read_at_every_step(tmp_path):
    tiny("neox").save_pretrained(tmp_path)
    frame = run_head_norms(run_of(tmp_path, (0, 5)))
    assert len(frame) == 2 * 8
    assert not frame.attrs.get("not_read")
