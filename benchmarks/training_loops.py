"""The loops that `training.py` compares. Each runs in a process of its own and waits, asleep, until it is given a turn."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nca_interp.config import MODULES, ModelConfig, Seeds, StageConfig
from nca_interp.model.presets import PRESETS


class Size(NamedTuple):
    """A model with a batch."""

    model: ModelConfig
    vocab: int
    batch: int
    micro: int | None

    @property
    def tokens(self) -> int:
        """Tokens a step."""
        return self.batch * self.model.n_ctx


SIZES = {
    "0.2M": Size(PRESETS["tiny"], 512, 16, None),
    "1.5M": Size(PRESETS["mini"], 2048, 16, None),
    "6M": Size(PRESETS["small"], 2048, 16, None),
    "50M": Size(PRESETS["50m"], 50_257, 2, None),
    "50M-gpu": Size(PRESETS["50m"], 50_257, 32, None),
    "160M-gpu": Size(PRESETS["160m"], 50_257, 32, 16),
    "400M-gpu": Size(PRESETS["400m"], 50_257, 32, 8),
}
LOOPS = ("ours", "ours, compiled", "plain", "Trainer", "published", "published, 64,000 rows")


class Setting(NamedTuple):
    """How the loops are run."""

    device: str
    precision: str
    threads: int


class Turn(NamedTuple):
    """What a loop did in one turn."""

    steps: int
    seconds: float
    cpu: float
    """Processor seconds of all threads."""
    losses: list[float]
    """Nats a token, of each step."""
    waited: list[float]
    """Share of each step that was spent waiting for data; only ours knows."""
    memory: int
    """Peak so far, in bytes: of the process, or of what it holds on the GPU."""


class Turns:
    """Seen from a loop: `tick` after each step returns when the next one is to be taken, False for the end."""

    def __init__(self, connection: Connection, device: str) -> None:
        self.connection, self.device = connection, device
        self._await()

    def _await(self) -> bool:
        try:
            self.steps = self.connection.recv()
        except EOFError:  # nobody is left to ask
            self.steps = 0
        self.losses: list[float] = []
        self.waited: list[float] = []
        self.begin, self.cpu = time.perf_counter(), time.process_time()
        return self.steps > 0

    def tick(self, loss: float, waited: float | None = None) -> bool:
        self.losses.append(loss)
        if waited is not None:
            self.waited.append(waited)
        if len(self.losses) < self.steps:
            return True
        synchronise(self.device)
        seconds, cpu = time.perf_counter() - self.begin, time.process_time() - self.cpu
        self.connection.send(Turn(self.steps, seconds, cpu, self.losses, self.waited, _peak_memory(self.device)))
        return self._await()


def synchronise(device: str) -> None:
    """Wait for a GPU."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def _peak_memory(device: str) -> int:
    if device == "cuda":
        import torch

        peak = torch.cuda.max_memory_allocated()
        torch.cuda.empty_cache()  # the others want it
        return peak
    lines = Path("/proc/self/status").read_text().splitlines()  # ru_maxrss begins at what the parent had
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def write_tokens(folder: Path, size: Size) -> None:
    """A token directory of random rows: speed does not depend on what they say."""
    from nca_interp.data.specs import DyckSpec
    from nca_interp.data.text.documents import token_dtype
    from nca_interp.data.tokens import GENERATOR_VERSION, TokenMeta
    from nca_interp.store import sha256_file, write_json

    folder.mkdir(parents=True)
    dtype, generator = token_dtype(size.vocab), np.random.default_rng(0)
    rows = {"train": 64 * size.batch, "val": 1}
    for split, n in rows.items():
        generator.integers(0, size.vocab, (n, size.model.n_ctx + 1)).astype(dtype).tofile(folder / f"{split}.bin")
    meta = TokenMeta(
        spec=DyckSpec().model_dump(mode="json"), seed=0, vocab_size=size.vocab, dtype=dtype.name,
        seq_len=size.model.n_ctx, n_train=rows["train"], n_val=1, unsupervised_prefix=0,
        sha256={f"{split}.bin": sha256_file(folder / f"{split}.bin") for split in rows},
        generator_version=GENERATOR_VERSION, request={}, provenance={}, description="random tokens",
    )  # fmt: skip
    write_json(folder / "meta.json", meta.model_dump(mode="json"))


def train(connection: Connection, setting: Setting, size: Size, loop: str, folder: Path) -> None:
    """Body of a process: train with one loop for as long as `connection` asks for steps."""
    if setting.device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    import torch

    torch.set_num_threads(setting.threads)
    turns, rows = Turns(connection, setting.device), 64_000 if "64,000" in loop else size.vocab
    if loop.startswith("ours"):
        _ours(setting, size, folder, turns, compiled="compiled" in loop)
    elif loop == "Trainer":
        _trainer(setting, size, folder, turns)
    elif loop == "plain":
        _plain(setting, size, folder, turns)
    else:
        _published(setting, size, folder, turns, rows)


class _Enough(Exception):
    pass


def _ours(setting: Setting, size: Size, folder: Path, turns: Turns, compiled: bool) -> None:
    """A run of the package itself."""
    from nca_interp.store import StudyDir
    from nca_interp.train import loop as module
    from nca_interp.train.run import RunConfig

    stage = StageConfig(
        steps=100_000, batch_size=size.batch, micro_batch=size.micro, lr=1e-4, warmup=0.0, eval_every=10**6, checkpoint_every=10**6, checkpoints="ends"
    )  # fmt: skip
    run = RunConfig(
        id="compiled" if compiled else "eager", stage="ppt", regime="x", label="x", role="regime", domain=None, seed=0, seeds=Seeds(init=0, order=0, rules=0),
        model=size.model, config=stage, tokens="tokens/random", source={}, parent=None, keep=MODULES, reinit_to="initial",
        precision=setting.precision, compile="on" if compiled else "off",
    )  # fmt: skip
    record = module.record_step

    def counted(loop: Any, step: Any, seconds: float, waited: float) -> None:
        record(loop, step, seconds, waited)
        if not turns.tick(step.loss, waited / seconds):
            raise _Enough

    module.record_step = counted
    with suppress(_Enough):
        module.train(StudyDir(folder), run)


def _plain(setting: Setting, size: Size, folder: Path, turns: Turns) -> None:
    """After karpathy/nanoGPT's train.py."""
    import torch
    import torch.nn.functional as F

    def loss_of(model: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        logits = model(input_ids=x, use_cache=False).logits
        return F.cross_entropy(logits.view(-1, logits.size(-1)), y.view(-1))

    _by_hand(setting, size, folder, turns, size.vocab, loss_of, {"fused": True})


def _published(setting: Setting, size: Size, folder: Path, turns: Turns, rows: int) -> None:
    """After danihyunlee/nca-pre-pretraining: a mask tensor, Adam that is not fused, the loss over all logits."""
    import torch
    import torch.nn.functional as F

    def loss_of(model: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        n = x.shape[1]
        mask = torch.full((n, n), float("-inf"), device=x.device).triu(1).expand(len(x), 1, n, n).contiguous()
        logits = model(input_ids=x, attention_mask=mask, use_cache=False).logits
        return F.cross_entropy(logits.reshape(-1, logits.size(-1)), y.reshape(-1))

    _by_hand(setting, size, folder, turns, rows, loss_of, {"fused": False, "foreach": False})


def _by_hand(
    setting: Setting,
    size: Size,
    folder: Path,
    turns: Turns,
    rows: int,
    loss_of: Callable[..., Any],
    adam: dict[str, bool],
) -> None:
    """A loop written out, with accumulation over micro-batches."""
    import torch

    model = _model(size, rows, setting.device)
    optimizer = torch.optim.AdamW(_groups(model), lr=1e-4, betas=(0.9, 0.98), **adam)
    micro = size.micro or size.batch
    for x, y in _batches(size, folder, setting.device):
        total = torch.zeros((), device=setting.device)
        for a, b in zip(x.split(micro), y.split(micro), strict=True):
            with torch.autocast(setting.device, dtype=torch.bfloat16, enabled=setting.precision == "bf16"):
                loss = loss_of(model, a, b) * (len(a) / len(x))
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if not turns.tick(total.item()):
            return


def _trainer(setting: Setting, size: Size, folder: Path, turns: Turns) -> None:
    """Hugging Face Trainer on the same rows."""
    from torch.utils.data import IterableDataset
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    class Rows(IterableDataset):
        def __iter__(self) -> Any:
            for x, _ in _batches(size, folder, "cpu"):
                for inputs in x:  # Trainer shifts labels itself, so that the last target of a row is lost
                    yield {"input_ids": inputs, "labels": inputs}

    class Count(TrainerCallback):
        def on_log(self, arguments: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
            if "loss" in logs:
                control.should_training_stop = not turns.tick(logs["loss"])

    micro = size.micro or size.batch
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"), max_steps=100_000, per_device_train_batch_size=micro,
        gradient_accumulation_steps=size.batch // micro, learning_rate=1e-4, weight_decay=0.01, adam_beta2=0.98,
        max_grad_norm=1.0, lr_scheduler_type="constant", bf16=setting.precision == "bf16", use_cpu=setting.device == "cpu",
        save_strategy="no", report_to=[], logging_steps=1, disable_tqdm=True,
    )  # fmt: skip
    model = _model(size, size.vocab, setting.device)
    trainer = Trainer(model, arguments, train_dataset=Rows(), callbacks=[Count()])
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def _model(size: Size, rows: int, device: str) -> Any:
    from nca_interp.model.llama import build

    return build(size.model, rows, 0, "ppt").train().to(device)


def _batches(size: Size, folder: Path, device: str) -> Iterator[tuple[Any, Any]]:
    """The same rows in the same order as our run takes them."""
    import torch

    from nca_interp.base import stream_seed
    from nca_interp.data.tokens import TokenFile
    from nca_interp.train.batches import batch_rows

    tokens, step, seed = TokenFile.open(folder / "tokens/random"), 0, stream_seed(0, "order", "ppt")
    while True:
        rows = torch.from_numpy(tokens.train[batch_rows(len(tokens.train), size.batch, seed, step)].astype(np.int64))
        yield rows[:, :-1].contiguous().to(device), rows[:, 1:].contiguous().to(device)
        step += 1


def _groups(model: Any) -> list[dict[str, Any]]:
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.01},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
