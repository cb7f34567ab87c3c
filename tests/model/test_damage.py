"""Damaged checkpoint folders: whatever is flipped, cut or replaced, the folder opens or one sentence says why not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nca_interp.analysis.attention.forward import forward
from nca_interp.analysis.stimuli.base import Batch
from nca_interp.analysis.stimuli.subject import describe
from nca_interp.base import UserError
from nca_interp.model.checkpoint import load_model, read_provenance

JSON = (
    "config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
)
WEIRD = (
    None, True, -1, 0, 3, 1.5, 1e308, 10**6, 10**30, "", "x", "../x.safetensors", "\ud800", [], [1], {}, {"a": {}},
    [[[[[[]]]]]], "float7", ["x", 1],
)  # fmt: skip
RAW = (
    b"",
    b"{",
    b"[]",
    b"3",
    b"null",
    b'"x"',
    b"\xff\xfe{}",
    b"[" * 100_000,
    b'{"a": ' + b"9" * 5000 + b"}",
    b"{}" * 2,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint of two shards with a tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("whole")
    config = LlamaConfig(
        vocab_size=260, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer: Any = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": {"content": "<|endoftext|>"}}')
    return folder


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything in a JSON value (of long lists and objects: to the first four)."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    inside = [place for key, part in list(items) for place in places(part, (*path, key))]
    return [path, *(inside[:40])]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A JSON value with what lies at `path` replaced."""
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


@st.composite
def damages(draw: st.DrawFn) -> tuple[str, Any]:
    """A file's name and what is done to its bytes: a function of them (None: it is removed)."""
    weights = "model-00001-of-00002.safetensors"
    name = draw(st.sampled_from((*JSON, *JSON, weights)))
    kind = draw(
        st.sampled_from(
            ("value", "value", "value", "flip", "cut", "raw", "remove") if name in JSON else ("flip", "cut", "remove")
        )
    )
    place, new = draw(st.floats(0, 1, exclude_max=True)), draw(st.sampled_from(WEIRD))
    bit = draw(st.integers(0, 7))

    def damage(data: bytes) -> bytes | None:
        if kind == "value":
            parsed = json.loads(data)
            paths = places(parsed)
            return json.dumps(replaced(parsed, paths[int(place * len(paths))], new)).encode()
        at = int(place * min(len(data), 2000 if name == weights else len(data)))
        if kind == "flip":
            return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
        return {"cut": data[:at], "raw": RAW[int(place * len(RAW))], "remove": None}[kind]

    return name, damage


@settings(max_examples=80, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(damages())
def test_a_damaged_folder_opens_or_is_refused_in_one_sentence(whole: Path, damaged: tuple[str, Any]) -> None:
    name, damage = damaged
    folder = whole.parent / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    file = next(iter(folder.glob(name.replace("00002", "*"))))
    data = damage(file.read_bytes())
    file.unlink() if data is None else file.write_bytes(data)
    with suppress_user_errors(folder):
        model = load_model(folder)
        subject = describe(folder, model.config, read_provenance(folder))
        inputs = np.arange(4)[None]
        nll = forward(model, Batch(inputs, inputs), None, True, (), {})
        assert torch.isfinite(nll).all()
        assert subject.vocab_size == 260


@contextmanager
def suppress_user_errors(folder: Path) -> Iterator[None]:
    """Only UserError, in one line that names the folder."""
    try:
        yield
    except UserError as error:
        said = str(error)
    else:
        return
    assert str(folder) in said
    assert "\n" not in said
