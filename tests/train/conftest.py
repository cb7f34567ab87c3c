"""A tiny run on Dyck tokens, and a way to train it in a process that can be killed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from nca_interp.config import MODULES, ModelConfig, Seeds, StageConfig
from nca_interp.data.specs import DyckSpec
from nca_interp.data.tokens import write_tokens
from nca_interp.store import StudyDir
from nca_interp.train.run import RunConfig

SPEC = DyckSpec(k=8, max_depth=4)


def make_run(**changes) -> RunConfig:
    """A run of 12 steps on Dyck; `changes` to the stage's fields, or to the run's own."""
    stage = StageConfig(steps=12, batch_size=8, lr=3e-3, eval_every=4, checkpoint_every=5)
    stage = stage.model_copy(update={k: v for k, v in changes.items() if k in StageConfig.model_fields})
    own = {k: v for k, v in changes.items() if k in RunConfig.model_fields}
    base = {
        "id": "ppt.dyck.s0",
        "stage": "ppt",
        "regime": "dyck",
        "label": "Dyck",
        "role": "regime",
        "domain": None,
        "seed": 0,
        "seeds": Seeds(init=0, order=0, rules=0),
        "config": stage,
        "tokens": "tokens/dyck",
        "source": SPEC.model_dump(mode="json"),
        "model": ModelConfig(n_layers=2, d_model=32, n_heads=2, d_mlp=48, n_ctx=32),
        "parent": None,
        "keep": MODULES,
        "reinit_to": "initial",
        "precision": "fp32",
    }
    return RunConfig(**{**base, **own})


@pytest.fixture
def study(tmp_path) -> StudyDir:
    """A study folder with one Dyck token file of 40 rows (so that 12 steps of 8 pass more than one epoch)."""
    study = StudyDir(tmp_path / "study")
    write_tokens(study.tokens / "dyck", SPEC, n_train=40, n_val=8, seq_len=32, seed=0)
    return study


TRAIN = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from nca_interp.base import RunFailed, UserError
from nca_interp.store import StudyDir
from nca_interp.train.loop import Stopped, train
from nca_interp.train.run import RunConfig
try:
    for run in sys.argv[2:]:
        train(StudyDir(Path(sys.argv[1])), RunConfig.model_validate_json(run))
except Stopped as stopped:
    sys.exit(128 + stopped.signal)
except (RunFailed, UserError) as error:
    print(error, file=sys.stderr)
    sys.exit(1)
"""


def spawn(study: StudyDir, runs: list[RunConfig], *launcher: str, **env: str) -> subprocess.Popen:
    """Start training `runs`, one after the other, in a process of their own."""
    import os

    script = study.path.parent / "train_one.py"
    script.write_text(TRAIN)
    command = [*(launcher or [sys.executable]), str(script), str(study.path), *(run.model_dump_json() for run in runs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", **env}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
