"""lm-evaluation-harness on our own checkpoints: its tasks, prompts, examples and aggregation; our forward passes.

`Ours` is a model of the harness that answers in batches with a key-value cache, keeps every answer on disk as it is given, and
answers again from there. A problem of our benchmarks that does not fit the context is skipped (NaN), one of the harness's own is cut
on the left, as the harness does; both are counted.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.model import TemplateLM

from nca_interp.base import digest
from nca_interp.evaluate.generate import Request, draw_seeds, generate
from nca_interp.evaluate.sampling import Sampling
from nca_interp.evaluate.task import SKIPPED
from nca_interp.files import sync

DEFAULT_TOKENS = 256
"""Longest answer where a task of the harness names none (as its own models)."""
Say = Callable[[str, float | None], None]


class Answers:
    """What was answered, by key: JSON lines that several processes write, each its own file. A torn last line is answered again."""

    def __init__(self, folder: Path, part: str) -> None:
        self.folder, self.path = folder, folder / f"answers-{part}.jsonl"
        self.known: dict[str, Any] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("answers-*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                    self.known[row["key"]] = row["value"]
                except (ValueError, KeyError, TypeError):
                    continue
        self._mend()

    def _mend(self) -> None:
        if self.path.is_file() and (text := self.path.read_bytes()) and not text.endswith(b"\n"):
            self.path.write_bytes(text + b"\n")

    def keep(self, rows: Iterable[tuple[str, Any]]) -> None:
        """Append answers; they are on the disk when this returns."""
        found = list(rows)
        with open(self.path, "a", encoding="utf-8") as file:
            file.writelines(json.dumps({"key": k, "value": v}, ensure_ascii=True) + "\n" for k, v in found)
        sync(self.path)
        self.known.update(found)


class Ours(TemplateLM):
    """A checkpoint as the harness sees one. `tokenizer`: as `open_tokenizer` gives it."""

    def __init__(
        self, model: Any, opened: Any, identity: str, n_ctx: int, answers: Answers, *, sampling: Sampling, seed: int, batch: int,
        ours: frozenset[str] = frozenset(), say: Say = lambda what, share: None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.model, self.coder, self.identity, self.n_ctx, self.answers = (
            model,
            opened.tokenizer,
            identity,
            n_ctx,
            answers,
        )
        self.end, self.begin = opened.end_id, opened.bos_id
        self.sampling, self.seed, self.batch, self.ours, self.say = sampling, seed, batch, ours, say
        self.cut: Counter[str] = Counter()
        """By task, requests that were skipped or cut because they do not fit."""
        self._encode = self.coder.encode

    @property
    def eot_token_id(self) -> int:
        """The end of a text; of a tokenizer without one, its first token."""
        return 0 if self.end is None else int(self.end)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text."""
        return self.eot_token_id if self.begin is None else int(self.begin)

    @property
    def max_length(self) -> int:
        """Context in tokens."""
        return self.n_ctx

    @property
    def tokenizer_name(self) -> str:
        """Name for the harness's own caches."""
        return self.identity

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Tokens of a text; none is added, and text that looks like a special token is text."""
        return list(self._encode(string, add_special_tokens=False).ids)

    def tok_decode(self, ids: list[int]) -> str:
        """Text of tokens."""
        return str(self.coder.decode(ids, skip_special_tokens=False))

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Answers to requests (prompt, settings); a prompt that is asked several times in a row is drawn as often."""
        drawn: Counter[str] = Counter()
        keys: list[str] = []
        wanted: dict[str, tuple[Any, list[int]]] = {}
        for request in requests:
            base = digest(
                [self.identity, "generate", list(self.sampling), self.seed, request.task_name, self._asked(request)]
            )
            keys.append(key := f"{base}-{drawn[base]}")
            if key not in self.answers.known:
                wanted.setdefault(base, (request, []))[1].append(drawn[base])
            drawn[base] += 1
        self._generate(wanted)
        return [str(self.answers.known[key]) for key in keys]

    @staticmethod
    def _asked(request: Any) -> list[Any]:
        prompt, settings = request.args[:2]
        until = settings.get("until") or []
        return [
            prompt,
            [until] if isinstance(until, str) else list(until),
            int(settings.get("max_gen_toks", DEFAULT_TOKENS)),
        ]

    def _generate(self, wanted: dict[str, tuple[Any, list[int]]]) -> None:
        requests: list[Request] = []
        names: list[tuple[str, list[int]]] = []
        for base, (request, draws) in wanted.items():
            prompt, until, most = self._asked(request)
            ids = self.tok_encode(prompt) or [self.prefix_token_id]
            if len(ids) >= self.n_ctx:
                self.cut[request.task_name] += 1
                if request.task_name in self.ours:
                    self.answers.keep((f"{base}-{d}", SKIPPED) for d in draws)
                    continue
                ids = ids[-max(1, self.n_ctx - most) :]
            room = min(most, self.n_ctx - len(ids))
            seeds = draw_seeds(self.seed, str(request.task_name), prompt, range(max(draws) + 1))
            requests.append(Request(tuple(ids), tuple(seeds[d] for d in draws), room, tuple(until), len(names)))
            names.append((base, draws))
        answered = 0
        for index, texts in generate(self.model, self.tok_decode, requests, self.sampling, self.end, self.batch):
            base, draws = names[index]
            self.answers.keep((f"{base}-{d}", text) for d, text in zip(draws, texts, strict=True))
            answered += 1  # noqa: SIM113
            self.say(f"answers to {answered} of {len(requests)} problems", answered / len(requests))

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, whether greedy decoding writes it) of each (context, continuation)."""
        keys = [digest([self.identity, "likelihood", r.task_name, *r.args]) for r in requests]
        left = {k: r for k, r in zip(keys, requests, strict=True) if k not in self.answers.known}
        encoded = []
        for key, request in left.items():
            context, continuation = request.args
            if context:
                before, after = self._encode_pair(context, continuation)
            else:
                before, after = [self.prefix_token_id], self.tok_encode(continuation)
            if len(before) + len(after) > self.n_ctx + 1:
                self.cut[request.task_name] += 1
                if request.task_name in self.ours or len(after) > self.n_ctx:
                    self.answers.keep([(key, None)])
                    continue
                before = before[len(before) + len(after) - self.n_ctx - 1 :]
            encoded.append((key, before, after))
        self._score(encoded)
        found = [self.answers.known[key] for key in keys]
        return [(math.nan, False) if value is None else (float(value[0]), bool(value[1])) for value in found]

    @torch.no_grad()
    def _score(self, encoded: list[tuple[str, list[int], list[int]]]) -> None:
        if not encoded:
            return
        self.model.eval()
        device = next(self.model.parameters()).device
        encoded = sorted(encoded, key=lambda e: len(e[1]) + len(e[2]))
        for start in range(0, len(encoded), self.batch):
            part = encoded[start : start + self.batch]
            longest = max(len(b) + len(a) for _, b, a in part) - 1
            ids = torch.zeros(len(part), longest, dtype=torch.long)
            for row, (_, before, after) in enumerate(part):  # on the right: what follows is not seen
                tokens = [*before, *after][:-1]
                ids[row, : len(tokens)] = torch.tensor(tokens)
            logits = self.model(input_ids=ids.to(device)).logits
            rows = []
            for row, (key, before, after) in enumerate(part):
                of = logits[row, len(before) - 1 : len(before) + len(after) - 1].double().log_softmax(-1)
                target = torch.tensor(after, device=device)
                greedy = bool((of.argmax(-1) == target).all())
                rows.append((key, [float(of.gather(-1, target[:, None]).sum()), greedy]))
            self.answers.keep(rows)
            self.say(f"likelihood of {start + len(part)} of {len(encoded)} choices", (start + len(part)) / len(encoded))

    def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> list[tuple[float, bool]]:
        raise NotImplementedError  # `loglikelihood` does it

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in windows of the context (perplexity tasks of the harness)."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        found = []
        for number, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            windows = map(make_disjoint_window, get_rolling_token_windows(ids, self.prefix_token_id, self.n_ctx, 1))
            encoded = [
                (digest([self.identity, "rolling", number, i, b, a]), list(b), list(a))
                for i, (b, a) in enumerate(windows)
            ]
            self._score([e for e in encoded if e[0] not in self.answers.known])
            found.append(sum(float(self.answers.known[key][0]) for key, _, _ in encoded))
        return found
