"""What lies at a path that should be a checkpoint: a whole one, or what else it is and how a checkpoint is made of it.

Only names are looked at; nothing is opened but small JSON files, and no pickle ever.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from nca_interp.base import UserError
from nca_interp.store import MANIFEST, damage

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.distcp")
ADAPTER = "adapter_config.json"
DCP_SHARD = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
"""Weights of a distributed checkpoint, which transformers reads by other rules than those of a directory."""
SHOWN = 3
"""Checkpoints inside a folder that a message lists before it counts the rest."""


def check_directory(directory: Path) -> None:
    """Raise UserError unless `directory` looks like a whole checkpoint with safetensors weights; it says what else it is."""
    if problem := _no_folder(directory) or _other_kind(directory):
        raise UserError(f"{directory}: {problem}")
    if (directory / MANIFEST).is_file() and (problem := damage(directory)):
        raise UserError(f"{directory}: damaged checkpoint, {problem}")


def _no_folder(path: Path) -> str | None:
    if path.is_dir():
        return None
    if not path.exists():
        return "no such checkpoint directory"
    if path.suffix == ".gguf":
        return _gguf(path)
    if any(path.match(pattern) for pattern in PICKLES):
        return f"pickled weights, which are never opened; {_convert(path.parent)}"
    if path.suffix in (".safetensors", ".json"):
        return _other_kind(path.parent) or f"one file of a checkpoint; give the folder that it lies in: {path.parent}"
    return "a file, where a checkpoint directory is expected"


def _other_kind(folder: Path) -> str | None:
    """What a folder is that is no checkpoint, with the way on; None for a checkpoint."""
    if (folder / ADAPTER).is_file():
        return _adapter(folder)
    has_config = (folder / "config.json").is_file()
    if has_config and any(DCP_SHARD.fullmatch(p.name) for p in folder.glob("shard-*.safetensors")):
        return "a distributed checkpoint (shard-*.safetensors); save it as a whole one with save_pretrained first"
    if has_config and any(folder.glob("*.safetensors")):
        return None
    for gguf in sorted(folder.glob("*.gguf")):
        return _gguf(gguf)
    inside = checkpoints_in(folder)
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if inside:
        return _point(folder, inside)
    if pickles and has_config:
        return f"only pickled weights ({pickles[0]}); refused, {_convert(folder)}"
    if pickles:
        return f"the state of a training run ({pickles[0]}), pickled and never opened, and no config.json in it"
    if not has_config:
        return "no config.json in it; expected a Hugging Face checkpoint directory"
    return "no *.safetensors weights in it"


def checkpoints_in(folder: Path) -> list[Path]:
    """Checkpoint directories one or two levels below, by the numbers in their names; a hub cache's own choice comes last."""
    found = {
        config.parent
        for pattern in ("*/config.json", "*/*/config.json")
        for config in folder.glob(pattern)
        if any(config.parent.glob("*.safetensors"))
    }
    main = folder / "refs" / "main"
    chosen = main.read_text(encoding="utf-8", errors="replace").strip() if main.is_file() else ""
    return sorted(found, key=lambda path: (path.name == chosen, *_numbered(path.relative_to(folder))))


def _numbered(path: Path) -> tuple[list[int], str]:
    return [int(number) for number in re.findall(r"\d{1,15}", str(path))], str(path)


def _point(folder: Path, inside: list[Path]) -> str:
    what = "a folder of the Hugging Face cache" if (folder / "snapshots").is_dir() else "no checkpoint itself"
    names = [str(path.relative_to(folder)) for path in inside]
    listed = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    return f"{what}; inside: {listed}; give one of them, e.g. {inside[-1]}"


def _adapter(folder: Path) -> str:
    try:
        base = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        base = "its base model"
    merged = f"{folder.resolve()}-merged"
    code = (
        "from transformers import AutoTokenizer as T; from peft import AutoPeftModelForCausalLM as M; "
        f"m = M.from_pretrained({_quoted(folder)}).merge_and_unload(); m.save_pretrained({_quoted(merged)}); "
        f"T.from_pretrained(m.name_or_path).save_pretrained({_quoted(merged)})"
    )
    return (
        f"a PEFT (LoRA) adapter of {base}, not a model; merge it, then analyse {merged}: "
        f"pip install peft && python -c {shlex.quote(code)}"
    )


def _gguf(file: Path) -> str:
    folder = file.resolve().parent
    target = f"{file.resolve().with_suffix('')}-hf"
    code = (
        "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T, GgufConfig as G; "
        f"f = dict(gguf_file={_quoted(file.name)}); "
        f"M.from_pretrained({_quoted(folder)}, quantization_config=G(dequantize=True), **f)"
        f".save_pretrained({_quoted(target)}); "
        f"T.from_pretrained({_quoted(folder)}, **f).save_pretrained({_quoted(target)})"
    )
    return (
        f"weights in the GGUF format ({file.name}); unpack them to fp32, then analyse {target}: "
        f"pip install gguf && python -c {shlex.quote(code)}"
    )


def _convert(folder: Path) -> str:
    target = f"{folder.resolve()}-safetensors"
    code = (
        "from transformers import AutoModelForCausalLM as M; "
        f"M.from_pretrained({_quoted(folder)}, use_safetensors=False, weights_only=True)"
        f".save_pretrained({_quoted(target)})"
    )
    return f"convert them to safetensors, where you trust them: python -c {shlex.quote(code)}"


def _quoted(path: Path | str) -> str:
    return json.dumps(str(path), ensure_ascii=False)
