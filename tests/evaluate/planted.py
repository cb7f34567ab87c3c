"""Models whose answers are known: one that writes what a key says, one that says nothing, one that guesses."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

END = "<|endoftext|>"


def byte_tokenizer() -> Tokenizer:
    """One token a byte, and an end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    return tokenizer


class _Rows:
    """What a cache is to `generate`: the tokens of each row so far."""

    def __init__(self, ids: list[list[int]], prompts: list[tuple[int, ...] | None]) -> None:
        self.ids, self.prompts = ids, prompts

    def batch_select_indices(self, chosen: torch.Tensor) -> None:
        self.ids = [list(self.ids[i]) for i in chosen.tolist()]
        self.prompts = [self.prompts[i] for i in chosen.tolist()]


class Keyed(torch.nn.Module):
    """Writes after each known prompt what the key says (to others, and behind the answer, the end token).

    Of several answers to a prompt (a tuple) it writes each with the same probability. With `loud` = 0 all logits are equal.
    """

    def __init__(
        self, key: Mapping[str, str | tuple[str, ...]], tokenizer: Tokenizer, n_ctx: int = 4096, loud: float = 60.0
    ) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(loud))
        self.tokenizer, self.vocab = tokenizer, tokenizer.get_vocab_size()
        self.end = tokenizer.token_to_id(END)
        self.config = SimpleNamespace(max_position_embeddings=n_ctx)
        self.known = {
            tuple(self._ids(prompt)): [[*self._ids(a), self.end] for a in ((answers,) if isinstance(answers, str) else answers)]
            for prompt, answers in key.items()
        }  # fmt: skip
        self.rows_seen: list[int] = []

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def get_input_embeddings(self):
        return SimpleNamespace(weight=torch.zeros(self.vocab, 1))

    def forward(self, input_ids, attention_mask=None, position_ids=None, past_key_values=None, use_cache=False):
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        self.rows_seen.append(len(input_ids))
        if past_key_values is None:
            rows = [
                [int(t) for t, m in zip(row, keep, strict=True) if m]
                for row, keep in zip(input_ids.tolist(), mask.tolist(), strict=True)
            ]
        else:
            rows = [[*old, *new] for old, new in zip(past_key_values.ids, input_ids.tolist(), strict=True)]
        prompts = [self._prompt(row) for row in rows] if past_key_values is None else past_key_values.prompts
        logits = torch.zeros(*input_ids.shape, self.vocab)
        for r, row in enumerate(rows):
            if use_cache:
                for token in self._next(row, prompts[r]):
                    logits[r, -1, token] = self.scale
            else:
                for at in range(len(row)):
                    for token in self._next(row[: at + 1], self._prompt(row[: at + 1])):
                        logits[r, at, token] = self.scale
        return SimpleNamespace(logits=logits, past_key_values=_Rows(rows, prompts) if use_cache else None)

    def _prompt(self, row: list[int]) -> tuple[int, ...] | None:
        return max((p for p in self.known if tuple(row[: len(p)]) == p), key=len, default=None)

    def _next(self, row: list[int], best: tuple[int, ...] | None) -> list[int]:
        if best is None:
            return [self.end]
        said = row[len(best) :]
        return [a[len(said)] for a in self.known[best] if a[: len(said)] == said and len(a) > len(said)] or [self.end]
