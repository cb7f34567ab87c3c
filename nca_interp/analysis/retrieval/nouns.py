"""Common English nouns, and what of them a tokenizer makes of one length."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from pathlib import Path

import numpy as np

NOUNS = """
time year people way day man thing woman life child world school state family student group country problem hand part place
case week company system program question work number night point home water room mother area money story fact month lot
right study book eye job word business issue side kind head house service friend father power hour game line end member law
car city community name team minute idea body information back parent face others level office door health person art war
history party result change morning reason research girl guy moment air teacher force education foot boy age policy music
market sense nation plan college interest death experience effect use class control field development role effort rate heart
drug show leader light voice wife police mind price report decision son view relationship town road arm difference value
building action season society tax director position player record paper space ground form event matter center couple site
project activity star table need court oil situation cost industry figure street image phone data picture practice piece land
product doctor wall news test movie north love step baby computer type attention film tree source truth bird stone river
window garden animal bridge paint horse sugar bottle clock corner dinner engine fish glass hair island key lake letter
machine milk mountain neck ocean page pencil plate pocket queen rain ring roof salt sand shirt shoe silver skin snow song
spoon summer sword ticket tooth train valley village wheel wind winter wood yard bread brush butter candle carpet chain chair
cheese church cloud coat cotton cow desk dust egg flag flower fork frame fruit ghost gold grass hammer hat hill hole ice
jacket knife ladder lamp leaf lemon lion map mirror moon mouse nail needle nest nut onion orange pan pen pig pillow pipe pot
rabbit rice root rope saddle sail seed sheep shelf ship sink sister sky sleeve snake soap soup spider stick storm string sun
tail tent thread throat thumb tiger tool towel toy truck uncle wagon watch wave whip wing wire wool worm
""".split()  # noqa: SIM905
"""In singular but for a few that have none."""
ENOUGH = 48
"""Nouns of one length in tokens that are enough for lists without repetition."""


@lru_cache(maxsize=8)
def noun_tokens(tokenizer: Path, vocab_size: int, barred: frozenset[int]) -> np.ndarray:
    """Tokens [noun, tokens a noun] of the nouns as they stand within a text, each after its space: those of one token where there
    are ENOUGH, else of the smallest number of tokens that has ENOUGH, else of the number that has most. Nouns with a token of
    `barred`, or beyond the vocabulary, are left out; [0, 1] where none is left."""
    from nca_interp.data.text.tokenizer import open_tokenizer

    opened = open_tokenizer(tokenizer).tokenizer
    before = opened.encode("a", add_special_tokens=False).ids
    by_size: dict[int, list[list[int]]] = {}
    for noun in dict.fromkeys(NOUNS):
        ids = opened.encode(f"a {noun}", add_special_tokens=False).ids
        if ids[: len(before)] != before:
            continue
        if (own := ids[len(before) :]) and _legal(own, vocab_size, barred):
            by_size.setdefault(len(own), []).append(own)
    enough = [size for size in sorted(by_size) if len(by_size[size]) >= ENOUGH]
    chosen = enough[0] if enough else max(by_size, key=lambda size: (len(by_size[size]), -size), default=0)
    return np.array(by_size[chosen], dtype=np.int64) if chosen else np.empty((0, 1), np.int64)


def _legal(ids: list[int], vocab_size: int, barred: Collection[int]) -> bool:
    return max(ids) < vocab_size and not set(ids) & set(barred)
