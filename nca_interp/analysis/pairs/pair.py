"""A pair of prompts as tokens of a checkpoint, checked. No torch: what was asked is checked before it is loaded."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field

from nca_interp.analysis.collection.collection import Collection
from nca_interp.analysis.prompts.texts import Encoder, applies, encoder
from nca_interp.analysis.stimuli.base import NotApplicable
from nca_interp.base import Frozen, UserError

LONGEST = 256
"""Tokens of a prompt: patching takes a pass for each of them in each layer."""
SHOWN = 12
"""Tokens that a message lists."""


class Options(Frozen):
    """Options of the pair."""

    clean: str = ""
    """Prompt to which the answer belongs."""
    corrupt: str = ""
    """Prompt of equally many tokens to which it does not."""
    answer: str = ""
    """What follows the clean prompt: one token, with its leading space."""
    wrong: str = ""
    """What follows the corrupted prompt: one token; the logit difference to it is measured, without it the answer's log probability."""
    top: int = Field(default=6, ge=2, le=50)
    """Heads between which paths are patched, those whose patch changes most."""


class Pair(NamedTuple):
    """Token ids."""

    clean: list[int]
    corrupt: list[int]
    answer: int
    wrong: int | None


def wanted(collection: Collection, options: Options, named: bool) -> bool:
    """Whether a pair was given. UserError where it is not whole, or fits the tokens of no checkpoint."""
    given = {name: getattr(options, name) for name in ("clean", "corrupt", "answer")}
    if not any([*given.values(), options.wrong]):
        if named:
            raise UserError("--pairs: no pair of prompts; give --clean, --corrupt and --answer (and --wrong)")
        return False
    if lacking := [f"--{name}" for name, value in given.items() if not value]:
        raise UserError(f"{', '.join(lacking)}: missing; a pair is --clean, --corrupt and --answer (and --wrong)")
    faults: list[UserError] = []
    runs = [run for run in collection.runs if run.steps and applies(run)]
    for run in runs:
        try:
            read_pair(encoder(run, collection.settings), options)
        except UserError as error:
            faults.append(error)
        except NotApplicable:
            continue
    if faults and len(faults) == len(runs):
        raise faults[0]
    return True


def read_pair(encode: Encoder, options: Options) -> Pair:
    """The pair in the tokens of one checkpoint. UserError names the field and its tokens."""
    clean, corrupt = encode.prompt(options.clean), encode.prompt(options.corrupt)
    at = next(
        (i for i, (a, b) in enumerate(zip(clean, corrupt, strict=False)) if a != b), min(len(clean), len(corrupt))
    )
    if len(clean) != len(corrupt):
        here = slice(max(0, at - 1), at - 1 + SHOWN)
        raise UserError(
            f"--clean and --corrupt: {len(clean)} and {len(corrupt)} tokens; positions are patched one by one, so both need equally "
            f"many. They part at token {at}: clean {encode.said(clean[here])}; corrupt {encode.said(corrupt[here])}"
        )
    if clean == corrupt:
        raise UserError(f"--clean and --corrupt: the same {len(clean)} tokens; there is nothing to patch")
    if len(clean) > LONGEST:
        raise UserError(f"--clean: {len(clean)} tokens; legal: at most {LONGEST}")
    answer = _one(encode, "answer", options.answer, options.clean, clean)
    wrong = _one(encode, "wrong", options.wrong, options.clean, clean) if options.wrong else None
    if answer == wrong:
        raise UserError(f"--answer and --wrong: the same token {encode.said([answer])}")
    return Pair(clean, corrupt, answer, wrong)


def _one(encode: Encoder, field: str, text: str, prompt: str, before: list[int]) -> int:
    """The one token that a text is behind the prompt."""
    whole = encode.prompt(prompt + text)
    after = whole[len(before) :] if whole[: len(before)] == before else encode.ids(text)
    joined = whole[: len(before)] != before
    if len(after) == 1 and not joined:
        return after[0]
    spaced = encode.prompt(f"{prompt} {text}")
    hint = f"; with a leading space it is one token: --{field} {f' {text}'!r}" if len(spaced) == len(before) + 1 and spaced[:-1] == before else ""  # fmt: skip
    if joined:
        raise UserError(
            f"--{field} {text!r}: it does not follow the clean prompt as a token of its own: together they end in "
            f"{encode.said(whole[-3:])}{hint}"
        )
    raise UserError(f"--{field} {text!r}: {len(after)} tokens, {encode.said(after[:SHOWN])}; legal: one{hint}")
