"""Phrases with Merge, Agree and Move: after the idea of MP-Struct (arXiv 2605.16758), not its grammar.

That paper's strings encode hierarchical composition, feature agreement and displacement, each with overt landmarks. Here:
phrases of several categories nest (Merge), the head's feature comes again at the end of its phrase (Agree), and a word before
a clause comes again behind a gap at the clause's end (Move). Sizes and probabilities are our own.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field

from nca_interp.data.controls.base import Control, kernel


class MinimalistSpec(Control):
    """Clauses: [word] phrase; a phrase: opener, head with a feature, phrases inside, [gap word], agreement, closer.

    Tokens: openers, closers, words, heads (word and feature), agreements, gap.
    """

    kind: Literal["minimalist"] = "minimalist"
    n_categories: int = Field(default=8, ge=1, le=1024)
    """Kinds of phrases, each with an opener and a closer."""
    n_words: int = Field(default=16, ge=2, le=4096)
    """Words, as heads and before clauses."""
    n_features: int = Field(default=4, ge=2, le=8)
    """Values of the feature of a head."""
    max_depth: int = Field(default=6, ge=1, le=256)
    """Phrases inside each other."""
    p_merge: float = Field(default=0.5, gt=0, lt=1)
    """Probability that another phrase comes inside one, where the depth allows it."""
    p_move: float = Field(default=0.5, gt=0, lt=1)
    """Probability that a word is displaced to the front of a clause."""

    @property
    def vocab_size(self) -> int:
        """2 n_categories + n_words + n_words n_features + n_features + 1."""
        return 2 * self.n_categories + self.n_words * (1 + self.n_features) + self.n_features + 1

    def names(self) -> list[str]:
        """[0 opens, 0] closes, w0 is displaced, w0.0 is a head, .0 agrees, _ is the gap."""
        heads = [f"w{w}.{f}" for w in range(self.n_words) for f in range(self.n_features)]
        opening, closing = ([form.format(c) for c in range(self.n_categories)] for form in ("[{}", "{}]"))
        words, agreeing = [f"w{w}" for w in range(self.n_words)], [f".{f}" for f in range(self.n_features)]
        return [*opening, *closing, *words, *heads, *agreeing, "_"]

    def describe(self) -> str:
        """One sentence."""
        return (
            f"nested phrases of {self.n_categories} categories (depth at most {self.max_depth}, p_merge {self.p_merge:g}) with agreement in "
            f"{self.n_features} features and displacement of {self.n_words} words (p_move {self.p_move:g})"
        )

    def lacks(self, n_tokens: int) -> str:
        """A phrase inside a phrase must fit, or nothing is far from what it depends on."""
        need = 3 + 4 * min(self.max_depth, 2)
        return (
            ""
            if need <= n_tokens
            else f"max_depth: {self.max_depth}: the shortest clause with it is longer than the row of {n_tokens} tokens; legal: rows of {need} or more"
        )

    def n_draws(self, n_tokens: int) -> int:
        """Two a token."""
        return 2 * n_tokens

    def fill(self, draws: Any, tokens: Any, nats: Any) -> None:
        """Informed: openers, words and heads cost what was drawn; agreement, gap, displaced word and closer nothing."""
        import numpy as np

        sizes = self.n_categories, self.n_words, self.n_features, self.max_depth
        _fill(draws, *sizes, self.p_merge, self.p_move, np.empty((2, self.max_depth), np.int64), tokens, nats)


START, FRONT, HEAD, INSIDE, WORD, AGREE, CLOSE = range(7)
"""What comes next: a clause, its phrase, a head, something inside a phrase, the displaced word, agreement, a closer."""


@kernel
def _fill(
    draws: Any, n_categories: int, n_words: int, n_features: int, max_depth: int, p_merge: float, p_move: float, stack: Any,
    tokens: Any, nats: Any,
) -> None:  # fmt: skip
    words = 2 * n_categories
    heads = words + n_words
    agreeing = heads + n_words * n_features
    gap = agreeing + n_features
    categories, features = stack
    for row in range(len(tokens)):
        state, depth, moved = START, 0, -1
        for i in range(tokens.shape[1]):
            coin, which = draws[row, 2 * i], draws[row, 2 * i + 1]
            cost = 0.0
            opens = state == FRONT
            if state == START:
                opens = coin >= p_move
                cost = -math.log(1 - p_move if opens else p_move)
                moved = -1
                if not opens:
                    moved = int(which * n_words)
                    token = words + moved
                    cost += math.log(n_words)
                    state = FRONT
            elif state == INSIDE:
                if depth < max_depth:
                    opens = coin < p_merge
                    cost = -math.log(p_merge if opens else 1 - p_merge)
                if not opens and depth == 1 and moved >= 0:
                    token = gap
                    state = WORD
                elif not opens:
                    state = AGREE
            elif state == HEAD:
                chosen = int(which * n_words * n_features)
                token = heads + chosen
                features[depth - 1] = chosen % n_features
                cost = math.log(n_words * n_features)
                state = INSIDE
                nats[row, i] = cost
                tokens[row, i] = token
                continue
            elif state == WORD:
                token = words + moved
                tokens[row, i] = token
                nats[row, i] = 0.0
                state = AGREE
                continue
            elif state == CLOSE:
                token = n_categories + categories[depth - 1]
                depth -= 1
                state = INSIDE if depth > 0 else START
                tokens[row, i] = token
                nats[row, i] = 0.0
                continue
            if opens:
                token = int(which * n_categories)
                categories[depth] = token
                depth += 1
                cost += math.log(n_categories)
                state = HEAD
            elif state == AGREE:
                token = agreeing + features[depth - 1]
                state = CLOSE
            tokens[row, i] = token
            nats[row, i] = cost
