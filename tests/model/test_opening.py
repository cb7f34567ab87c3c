"""What is given as a checkpoint and is none, or not one alone: one sentence with the way on, exit code 2, by the real CLI."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
from safetensors.torch import load_file, save_file

from nca_interp.base import UserError
from nca_interp.model.checkpoint import load_model
from tests.analysis.models import tiny

BIAS = "model.layers.0.self_attn.q_proj.bias"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint; tests change copies of it."""
    folder = tmp_path_factory.mktemp("made") / "llama"
    tiny("llama").save_pretrained(folder)
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """One to damage."""
    return Path(shutil.copytree(made, tmp_path / "llama"))


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[Path], str]:
    """What `nca-interp analyze --checkpoint` says of a path: exit code 2, one line, no output."""
    from nca_interp.cli.app import call as main

    def call(checkpoint: Path) -> str:
        capsys.readouterr()
        code = main(["analyze", "--probe", "induction", "--checkpoint", str(checkpoint)])
        out, err = capsys.readouterr()
        assert code == 2
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    return call


def edit(folder: Path, **fields: Any) -> Path:
    """Change fields of config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return folder


def weights(folder: Path, **tensors: torch.Tensor | None) -> Path:
    """Add, replace or (None) remove tensors; `__` stands for a point in their names."""
    held = load_file(folder / "model.safetensors") | {name.replace("__", "."): value for name, value in tensors.items()}
    held = {name: value for name, value in held.items() if value is not None}
    save_file(held, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_tensors_that_the_model_does_not_use_are_named(copy, said):
    weights(copy, **{BIAS.replace(".", "__"): torch.ones(32)})
    assert f"{BIAS} in the weights have no place in LlamaForCausalLM" in said(copy)


def test_layers_beyond_the_configured_number_are_named(copy, said):
    assert "model.layers.1.input_layernorm.weight" in said(edit(copy, num_hidden_layers=1))


def test_scales_of_packed_weights_are_named(copy, said):
    name = "model.layers.0.mlp.up_proj.weight"
    value = load_file(copy / "model.safetensors")[name]
    weights(copy, **{name: value.to(torch.float8_e4m3fn), f"{name}_scale": torch.ones(1)})
    assert f"{name}_scale" in said(copy)
    edit(copy, quantization_config={"quant_method": "modelopt", "quant_algo": "FP8"})
    assert "quant_method 'modelopt' is not read by transformers" in said(copy)


def test_a_reward_head_is_named(tmp_path, said):
    from transformers import Qwen2ForSequenceClassification

    config = tiny("qwen2").config
    config.num_labels, config.tie_word_embeddings = 1, True
    Qwen2ForSequenceClassification(config).save_pretrained(tmp_path / "reward")
    assert "score.weight in the weights have no place in Qwen2ForCausalLM" in said(tmp_path / "reward")


def test_tensors_of_no_consequence_are_let_through(copy):
    plain = load_model(copy)
    weights(
        copy,
        model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(4),
        model__layers__0__self_attn__masked_bias=torch.tensor(-1e9),
        model__layers__0__attn__bias=torch.ones(1, 1, 96, 96).tril(),
        model__embeddings__position_ids=torch.arange(96)[None],
    )
    ids = torch.arange(20)[None]
    assert torch.equal(load_model(copy)(ids).logits, plain(ids).logits)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model.layers.0.attn.bias", torch.ones(32)),  # a bias, no mask
        ("model.layers.0.attn.masked_bias", torch.ones(4)),
        ("model.position_ids", torch.ones(96)),
    ],
)
def test_names_of_no_consequence_with_other_contents_are_refused(copy, name, value):
    with pytest.raises(UserError, match=f"{name} in the weights have no place"):
        load_model(weights(copy, **{name: value}))


def test_missing_and_misshaped_tensors_are_named(copy, said):
    assert "tensor lm_head.weight has the shape [97, 32] in the weights, [99, 32]" in said(edit(copy, vocab_size=99))
    edit(copy, vocab_size=97)
    assert "1 tensors are missing from the weights, e.g. model.norm.weight" in said(
        weights(copy, model__norm__weight=None)
    )


def test_an_output_matrix_that_is_tied_and_differs_is_refused(copy, said):
    assert "config.json ties lm_head.weight to model.embed_tokens.weight" in said(edit(copy, tie_word_embeddings=True))
    weights(copy, lm_head__weight=load_file(copy / "model.safetensors")["model.embed_tokens.weight"].clone())
    model = load_model(copy)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_weights_that_are_not_finite_are_named(copy, said):
    name = "model.layers.1.self_attn.q_proj.weight"
    value = load_file(copy / "model.safetensors")[name]
    value[8:16], value[0, 0] = torch.nan, torch.inf
    weights(copy, **{name: value})
    assert f"the weights are not finite: {name} holds 256 NaN and 1 infinite of 1,024 values (as float32)" in said(copy)


def test_weights_that_overflow_in_half_precision_are_named(copy):
    weights(copy, model__norm__weight=torch.full((32,), 1e6))
    assert load_model(copy, dtype=torch.bfloat16).dtype == torch.bfloat16
    with pytest.raises(UserError, match=r"model.norm.weight holds 0 NaN and 32 infinite of 32 values \(as float16\)"):
        load_model(copy, dtype=torch.float16)


@pytest.mark.parametrize(
    ("method", "more", "package"),
    [
        ("gptq", {"bits": 4, "group_size": 128}, "optimum"),
        ("awq", {"bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}, "gptqmodel"),
        ("bitsandbytes", {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "bitsandbytes"),
        ("compressed-tensors", {"format": "pack-quantized", "config_groups": {}}, "compressed-tensors"),
        ("hqq", {"quant_config": {}}, "HQQ"),
        ("torchao", {"quant_type": "int8_weight_only"}, "torchao"),
    ],
)
def test_a_package_that_a_quantised_checkpoint_needs_is_named(copy, said, method, more, package):
    if find_spec(package.lower().replace("-", "_")):
        pytest.skip(f"{package} is installed here")
    assert package in said(edit(copy, quantization_config={"quant_method": method, **more}))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"hidden_size": "32"}, "'hidden_size' expected int, got str (value: '32')"),
        ({"num_attention_heads": 0}, "config.json: not a model that transformers knows: ZeroDivisionError"),
        ({"dtype": "float7"}, "float7"),
        ({"hidden_act": "nope"}, "nope"),
        ({"num_hidden_layers": 10**9}, "config.json: num_hidden_layers: 1000000000, but the weights hold 21 tensors"),
        ({"vocab_size": 10**11}, "describes a model of 6,400,000,0"),
        ({"transformers_weights": "../other.safetensors"}, "transformers_weights: '../other.safetensors'; legal: none"),
        ({"model_type": ["llama"]}, "config.json: not a model that transformers knows"),
    ],
)
def test_values_of_config_that_describe_no_model(copy, said, fields, expected):
    assert expected in said(edit(copy, **fields))


@pytest.mark.parametrize("text", [b"[1]", b"{", b"\xff", b"[" * 100_000, b'{"hidden_size": ' + b"9" * 5000 + b"}"])
def test_a_config_that_is_no_json_object(copy, said, text):
    (copy / "config.json").write_bytes(text)
    assert "config.json: " in said(copy)


def test_an_exception_inside_the_pass_is_one_sentence(copy, said, monkeypatch):
    from transformers import LlamaModel

    from nca_interp.analysis.attention import access

    def fail(*arguments, **more):
        raise AttributeError("no kernel")

    monkeypatch.setattr(access, "_BY_CONFIG", {})  # what this process found out about Llama models
    monkeypatch.setattr(LlamaModel, "forward", fail)
    assert f"{copy}: LlamaForCausalLM: does not run on 32 tokens" in (told := said(copy))
    assert "AttributeError: no kernel" in told


@pytest.fixture
def sharded(made, tmp_path):
    folder = tmp_path / "sharded"
    load_model(made).save_pretrained(folder, max_shard_size="40KB")
    return folder


def test_missing_and_foreign_shards_are_named(sharded, said):
    load_model(sharded)
    shards = sorted(sharded.glob("*.safetensors"))
    index = sharded / "model.safetensors.index.json"
    listing = json.loads(index.read_text())
    for bad in ("../x.safetensors", "/x.safetensors", "weights.bin"):
        index.write_text(json.dumps(listing | {"weight_map": listing["weight_map"] | {"model.norm.weight": bad}}))
        assert f"weight_map: '{bad}'; legal: a .safetensors file inside the folder" in said(sharded)
    for bad_map in ([], {}, {"a": 1}, None):
        index.write_text(json.dumps(listing | {"weight_map": bad_map}))
        assert "no weight_map from the name of each tensor to its file" in said(sharded)
    index.write_text(json.dumps(listing))
    shards[0].unlink()
    assert f"1 of {len(shards)} weight files are missing, e.g. {shards[0].name}" in said(sharded)


def test_a_truncated_or_renamed_file_of_weights(copy, said):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    assert "model.safetensors: truncated or damaged: " in said(copy)
    file.rename(copy / "consolidated.safetensors")
    assert "neither model.safetensors nor model.safetensors.index.json in it (but consolidated.safetensors)" in said(
        copy
    )


def test_a_parent_of_steps_points_to_the_last(made, tmp_path):
    for step in (500, 1000, 90):
        shutil.copytree(made, tmp_path / "out" / f"checkpoint-{step}")
    with pytest.raises(UserError) as told:  # on the command line it is a series
        load_model(tmp_path / "out")
    assert "inside: checkpoint-90, checkpoint-500, checkpoint-1000; give one of them" in str(told.value)
    assert str(told.value).endswith(f"e.g. {tmp_path / 'out' / 'checkpoint-1000'}")


def test_a_hub_cache_points_to_the_snapshot_of_main(made, tmp_path, said):
    cache = tmp_path / "models--org--name"
    for commit in ("0a", "9f"):
        shutil.copytree(made, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0a")
    assert f"a folder of the Hugging Face cache; inside: snapshots/9f, snapshots/0a; give one of them, e.g. {cache}/snapshots/0a" in said(cache)  # fmt: skip


def test_one_file_points_to_its_folder(copy, said):
    for name in ("model.safetensors", "config.json"):
        assert f"{copy / name}: one file of a checkpoint; give the folder that it lies in: {copy}" in said(copy / name)
    (copy / "notes.txt").write_text("x")
    assert "a file, where a checkpoint directory is expected" in said(copy / "notes.txt")


def test_an_adapter_says_how_to_merge(tmp_path, said):
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "org/base", "peft_type": "LORA"})
    )
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    for path in (tmp_path, tmp_path / "adapter_model.safetensors"):
        told = said(path)
        assert "a PEFT (LoRA) adapter of org/base, not a model" in told
        assert "merge_and_unload()" in told
        compile(told[told.index("python -c '") + 11 : told.rindex("'")], "command", "exec")


def test_gguf_says_how_to_unpack(tmp_path, said):
    (tmp_path / "model.Q4_1.gguf").write_bytes(b"GGUF")
    for path in (tmp_path, tmp_path / "model.Q4_1.gguf"):
        told = said(path)
        assert f"then analyse {tmp_path.resolve() / 'model.Q4_1'}-hf" in told
        compile(told[told.index("python -c '") + 11 : told.rindex("'")], "command", "exec")


def test_pickles_are_never_opened(copy, said, tmp_path):
    (copy / "model.safetensors").unlink()
    bomb = b'cbuiltins\nexec\n(S\'open("exploded", "w")\'\ntR.'
    for name in ("pytorch_model.bin", "optimizer.pt"):
        (copy / name).write_bytes(bomb)
    told = said(copy)
    assert "only pickled weights (optimizer.pt); refused, convert them to safetensors, where you trust them" in told
    compile(told[told.index("python -c '") + 11 : told.rindex("'")], "command", "exec")
    assert "pickled weights, which are never opened" in said(copy / "pytorch_model.bin")
    (copy / "config.json").unlink()
    assert "the state of a training run (optimizer.pt), pickled and never opened" in said(copy)
    assert not list(tmp_path.rglob("exploded"))


def test_large_finite_weights_are_no_fault(copy):
    weights(copy, model__norm__weight=torch.full((32,), 3e38))  # their sum overflows, they do not
    assert load_model(copy).model.norm.weight[0] == 3e38


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool, torch.complex64])
def test_packed_numbers_are_not_taken_for_weights(copy, said, dtype):
    name = "model.layers.1.self_attn.q_proj.weight"
    weights(copy, **{name: load_file(copy / "model.safetensors")[name].to(dtype)})
    assert f"{name} in the weights is of type " in said(copy)
    weights(copy, **{name: torch.ones(32, 32).to(torch.float8_e4m3fn)})
    assert float(load_model(copy).get_parameter(name).sum()) == 1024


@pytest.mark.parametrize("text", ["[]", '"x"', "7", "{", "[" * 100_000])
def test_a_damaged_generation_config_is_named(copy, said, text):
    (copy / "generation_config.json").write_text(text)
    assert "generation_config.json: " in said(copy)


def test_a_family_without_sdpa_opens(tmp_path):
    config = t.MambaConfig(vocab_size=61, hidden_size=16, num_hidden_layers=1, state_size=4)
    t.MambaForCausalLM(config).save_pretrained(tmp_path)
    assert load_model(tmp_path)(torch.zeros(1, 3, dtype=torch.long)).logits.shape == (1, 3, 61)
