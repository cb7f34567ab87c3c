"""Which parts of a body a regime takes from its synthetic stage, and what stands in place of the others.

Necessity: parts S are re-initialised and the rest is carried over. Sufficiency: S alone is carried over. What is put in place of
the parts that are not carried over tells learned structure from scale (arXiv 2603.10055, section 5.3.1; Zhang, Bengio and Singer,
arXiv 1902.01996, for the own initial weights). docs/transfer.md says what each choice means.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from nca_interp.base import Frozen, stream_seed
from nca_interp.head_rule import HeadRule, check_rule

Part = Literal["embed", "attn", "mlp", "norm", "qk", "vo", "q", "k", "v", "o"]
Instead = Literal["initial", "fresh", "permuted", "scaled", "directions", "spectrum", "donor"]
Head = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
COVERS: dict[str, tuple[str, ...]] = {
    "embed": ("embed",), "attn": ("q", "k", "v", "o"), "mlp": ("mlp",), "norm": ("norm",),
    "qk": ("q", "k"), "vo": ("v", "o"), "q": ("q",), "k": ("k",), "v": ("v",), "o": ("o",),
}  # fmt: skip
"""Kinds of tensors that a part stands for."""
CALLED = {
    "embed": "embeddings", "attn": "attention", "mlp": "MLP", "norm": "norms", "qk": "Q and K", "vo": "V and O",
    "q": "Q", "k": "K", "v": "V", "o": "O",
}  # fmt: skip
IN_WORDS: dict[str, str] = {
    "initial": "initial weights", "fresh": "a fresh draw", "permuted": "their own weights, permuted",
    "scaled": "initial weights at the learned norm", "directions": "learned weights at the initial norm",
    "spectrum": "random matrices with the learned singular values", "donor": "weights of",
}  # fmt: skip
ENUMERATED = 20_000
"""Up to so many matched head sets are listed, so that no two numbers mean the same set; of more, each number is a draw."""


class HeadFile(Frozen):
    """Heads that stand in a JSON file `{"heads": [[layer, head], ...]}`, which a person or an earlier job of the plan writes."""

    file: str = Field(min_length=1)
    """Path, relative to the study's folder; `{parent}` in it is the id of the run that the arm starts from (of a checkpoint
    from elsewhere checkpoint-SEED), so that every seed has its own heads."""
    rule: HeadRule | None = None
    """Rule by which a job of the plan writes it at the end of pre-pre-training (docs/mediation.md); null: somebody else does."""

    @classmethod
    def of(cls, rule: HeadRule) -> HeadFile:
        """The heads of a rule."""
        return cls(file=rule.file, rule=rule)

    @model_validator(mode="after")
    def _written(self) -> HeadFile:
        if self.rule is not None and self.file.split("/")[2:] != self.rule.file.split("/")[2:]:
            raise ValueError(f"file: {self.file!r} is not where its rule stands; legal: {self.rule.file}")
        return self


class Graft(Frozen):
    """Which parts of the parent's body are re-initialised, or alone carried over. Without any field: everything is carried over.

    A set of parameters is `parts` in `layers`, and `heads` (rows of Q, K and V, columns of O) in addition. The final norm counts
    as of the last layer. Of embeddings it speaks only where `swap.embed` keeps them; else they are drawn anew anyway.
    """

    mode: Literal["reinit", "keep"] = "reinit"
    """reinit: the named parameters are replaced, the rest is carried over (necessity); keep: they alone are carried over
    (sufficiency)."""
    parts: tuple[Part, ...] = ()
    """Kinds of parameters: embed, attn (or qk, vo, or q, k, v, o singly), mlp, norm."""
    layers: Literal["all", "lower", "upper"] | tuple[Annotated[int, Field(ge=0)], ...] = "all"
    """Layers of `parts`: all, the lower half (the smaller one of an odd number), the upper half, or numbers (also as text: 0-2,5)."""
    heads: tuple[Head, ...] | HeadFile = ()
    """Single heads as (layer, head), or as text: 3.1; or the file that names them."""
    matched: int | None = Field(default=None, ge=0)
    """Number of a random set that takes the place of the named heads: as many heads of the same layers, none of the named where a
    layer has enough others; null: the named heads themselves."""
    instead: Instead = "initial"
    """What stands where nothing is carried over. initial: this seed's own initial weights; fresh: another draw; permuted: the
    parent's tensor, its entries permuted; scaled: initial weights at the norm of the parent's; directions: the parent's weights at
    the norm of the initial; spectrum: random orthogonal factors with the parent's singular values (of vectors: permuted); donor:
    weights of another regime. Of heads each slice of a tensor by itself."""
    donor: str | None = None
    """Regime of the study whose pre-pre-trained weights are taken, of the same seed; with instead=donor only."""

    @field_validator("layers", mode="before")
    @classmethod
    def _ranges(cls, value: Any) -> Any:
        """0-2,5 as text."""
        if not isinstance(value, str) or value in ("all", "lower", "upper"):
            return (value,) if isinstance(value, int) else value
        found: list[int] = []
        for part in value.split(","):
            low, dash, high = part.strip().partition("-")
            numbers = (low, high) if dash else (low,)
            if not all(n.isdecimal() and len(n) <= 4 for n in numbers) or (dash and int(high) < int(low)):
                raise ValueError(f"{value!r}; legal: all, lower, upper, or layers such as 0-2,5")
            found += range(int(low), int(high or low) + 1)
        return tuple(found)

    @field_validator("heads", mode="before")
    @classmethod
    def _dotted(cls, value: Any) -> Any:
        if isinstance(value, float):
            raise ValueError(f'{value}: a number does not tell head 1 from 10; legal: ["3.1"]')
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",")]
        if not isinstance(value, list | tuple):
            return value
        return tuple(_head(one) for one in value)

    @model_validator(mode="after")
    def _agrees(self) -> Graft:
        covered = Counter(kind for part in self.parts for kind in COVERS[part])
        if twice := [kind for kind, n in covered.items() if n > 1]:
            names = [part for part in self.parts if twice[0] in COVERS[part]]
            raise ValueError(f"parts: {twice[0]} is named by {' and by '.join(names)}; legal: each parameter once")
        for field, values in (("layers", self.layers), ("heads", self.heads)):
            if isinstance(values, tuple) and len(set(values)) < len(values):
                raise ValueError(f"{field}: one stands there twice; legal: each once")
        if self.layers == ():
            raise ValueError("layers: none is named; legal: all, lower, upper, or layers such as 0-2,5")
        if (self.instead == "donor") != (self.donor is not None):
            given = "no donor is named" if self.donor is None else f"{self.donor!r} with instead {self.instead!r}"
            raise ValueError(f"donor: {given}; legal: the name of a regime with instead=donor, null else")
        if self.matched is not None and not self.heads:
            raise ValueError("matched: a random set for heads, and no head is named; legal: null, or with heads")
        return self

    @property
    def names(self) -> bool:
        """Whether it names anything."""
        return bool(self.parts or self.heads)

    def layer_numbers(self, n_layers: int) -> tuple[int, ...]:
        """The layers of `parts` in a network of `n_layers`."""
        half = n_layers // 2
        ranges = {"all": range(n_layers), "lower": range(half), "upper": range(half, n_layers)}
        return tuple(ranges[self.layers]) if isinstance(self.layers, str) else self.layers

    def kinds(self) -> frozenset[str]:
        """The kinds of tensors of `parts`."""
        return frozenset(kind for part in self.parts for kind in COVERS[part])

    def subject(self) -> str:
        """The named parameters in words."""
        said = []
        if self.parts:
            body = [part for part in self.parts if part != "embed"]
            where = {"all": "", "lower": " of the lower layers", "upper": " of the upper layers"}
            if isinstance(self.layers, str):
                layers = where[self.layers]
            else:
                layers = f" of layer{'s' * (len(self.layers) > 1)} {spans(self.layers)}"
            listed = [CALLED[part] for part in body]
            said += ["embeddings"] * ("embed" in self.parts) + ([_and(listed) + layers] if listed else [])
        if self.heads:
            one = isinstance(self.heads, tuple)
            heads = ", ".join(f"{a}.{b}" for a, b in self.heads) if isinstance(self.heads, tuple) else self.heads.file
            heads = f"head{'s' * (not one or len(self.heads) > 1)} {heads}"  # type: ignore[arg-type]
            if isinstance(self.heads, HeadFile) and self.heads.rule is not None:
                heads = self.heads.rule.words()
            if self.matched is not None:
                heads = f"random set {self.matched} of the layers of {heads}"
            said.append(heads)
        return _and(said) or "nothing"

    def short(self) -> str:
        """The graft as the label of an arm has it."""
        if self.mode == "keep":
            return f"only {self.subject()} kept" + ("" if self.instead == "initial" else f", else {self._filling()}")
        if self.instead in ("initial", "fresh"):
            return f"{self.subject()} re-initialised" + (" (fresh draw)" if self.instead == "fresh" else "")
        return f"{self.subject()} replaced by {self._filling()}"

    def _filling(self) -> str:
        return IN_WORDS[self.instead] + (f" {self.donor}" if self.donor else "")

    def words(self) -> str:
        """The graft in words; empty where everything is carried over."""
        if self == NOTHING:
            return ""
        if self.mode == "reinit":
            return f"{self.subject()} replaced by {self._filling()}"
        return f"only {self.subject()} carried over, the rest {self._filling()}"


NOTHING = Graft()
"""Everything is carried over; what a regime without a graft does."""


def rule_of(graft: Graft) -> HeadRule | None:
    """The rule by which its heads are chosen, if any."""
    return graft.heads.rule if isinstance(graft.heads, HeadFile) else None


class Matched(NamedTuple):
    """A set of heads that was drawn for another one."""

    heads: tuple[Head, ...]
    disjoint: bool
    """Whether it holds none of the named."""


def matched_heads(heads: Iterable[Head], n_heads: int, number: int) -> Matched:
    """The `number`-th random set with as many heads in each layer as `heads`, of `n_heads` a layer: of those that are not named;
    where a layer has too few others, all of these and some that are named. ValueError where there are not so many sets."""
    named = sorted(heads)
    layers = {layer: [h for at, h in named if at == layer] for layer, _ in named}
    choices, disjoint = [], True
    for layer, own in layers.items():
        others, lack = [h for h in range(n_heads) if h not in own], 2 * len(own) - n_heads
        disjoint &= lack <= 0
        pool, fixed = (others, []) if lack <= 0 else (own, others)
        choices.append((layer, fixed, pool, len(own) - len(fixed)))
    there = math.prod(math.comb(len(pool), k) for _, _, pool, k in choices)
    if not disjoint and there < 2 and number == 0 and all(len(own) == n_heads for own in layers.values()):
        raise ValueError(
            f"matched: all {n_heads} heads of these layers are named, so there is no other set; legal: null"
        )
    if number >= there:
        raise ValueError(f"matched: {number}; these layers have {there} such set(s); legal: 0 to {there - 1}")
    rng = random.Random(stream_seed("matched", named, n_heads, None if there <= ENUMERATED else number))
    if there <= ENUMERATED:
        sets = list(itertools.product(*(itertools.combinations(pool, k) for _, _, pool, k in choices)))
        rng.shuffle(sets)
        drawn = sets[number]
    else:
        drawn = tuple(tuple(rng.sample(pool, k)) for _, _, pool, k in choices)
    found = [(layer, h) for (layer, fixed, _, _), own in zip(choices, drawn, strict=True) for h in (*fixed, *own)]
    return Matched(tuple(sorted(found)), disjoint)


def check_heads(heads: Iterable[Head], n_layers: int, n_heads: int) -> None:
    """ValueError for a head that the network has not."""
    for layer, head in heads:
        if layer >= n_layers or head >= n_heads:
            raise ValueError(
                f"heads: {layer}.{head}; legal: layers 0 to {n_layers - 1}, heads 0 to {n_heads - 1} (layer.head)"
            )


def check_graft(
    where: str, graft: Graft, model: Any, *, source: Any, keeps_embeddings: bool, keep: tuple[str, ...], all_kept: bool,
    sources: Mapping[str, Any], own: str,
) -> None:  # fmt: skip
    """ValueError where a regime of this `source` (None: scratch) cannot do what its graft says in a network `model` (a ModelConfig).

    `sources`: of all regimes of the study, by name; `own`: the name of this one; `keep`: what it carries over by its field `keep`.
    """
    if graft == NOTHING:
        return
    if source is None:
        raise ValueError(
            f"{where}: {graft.words()}: this regime is trained from scratch (source null) and has nothing to carry over; "
            "legal: no graft"
        )
    if not all_kept:
        raise ValueError(
            f"{where}: {graft.words()}, and keep ({', '.join(keep) or 'nothing'}) says already what is re-initialised; legal: one of the two"
        )
    if not graft.names:
        raise ValueError(f"{where}: it names no parameter; legal: parts ({', '.join(COVERS)}) or heads (layer.head)")
    if beyond := [layer for layer in graft.layer_numbers(model.n_layers) if layer >= model.n_layers]:
        raise ValueError(f"{where}.layers: {beyond[0]}; legal: 0 to {model.n_layers - 1}")
    if graft.parts and set(graft.parts) != {"embed"} and not graft.layer_numbers(model.n_layers):
        raise ValueError(
            f"{where}.layers: lower: a network of one layer has no lower half, so it names no parameter; legal: all"
        )
    if "embed" in graft.parts and not keeps_embeddings:
        raise ValueError(
            f"{where}.parts: embed: the embeddings are drawn anew by the swap policy anyway; legal: with swap.embed=keep"
        )
    _check_named(where, graft, model)
    _check_donor(where, graft, source, sources, own)


def _check_named(where: str, graft: Graft, model: Any) -> None:
    if not isinstance(graft.heads, tuple):
        if graft.heads.rule is not None:
            check_rule(f"{where}.heads.rule", graft.heads.rule, model)
        return
    try:
        check_heads(graft.heads, model.n_layers, model.n_heads)
        if graft.matched is not None:
            matched_heads(graft.heads, model.n_heads, graft.matched)
    except ValueError as error:
        raise ValueError(f"{where}.{error}") from None
    attention = graft.kinds() & {"q", "k", "v", "o"}
    if twice := [h for h in graft.heads if attention and h[0] in graft.layer_numbers(model.n_layers)]:
        raise ValueError(
            f"{where}.heads: {twice[0][0]}.{twice[0][1]} is in the {'/'.join(sorted(attention))} of layer {twice[0][0]}, which parts name "
            "already; legal: each parameter once"
        )


def _check_donor(where: str, graft: Graft, source: Any, sources: Mapping[str, Any], own: str) -> None:
    if graft.donor is None:
        return
    legal = [
        name for name, spec in sources.items() if spec is not None and spec != source and spec.kind != "checkpoint"
    ]
    if graft.donor not in legal:
        why = (
            "no regime of the study" if graft.donor not in sources
            else "a regime from scratch, which has no weights to give" if sources[graft.donor] is None
            else "a checkpoint from elsewhere; a donor is trained in the study" if sources[graft.donor].kind == "checkpoint"
            else "a regime of the same source, whose weights the arm has anyway"
        )  # fmt: skip
        listed = f"legal: {', '.join(legal)}" if legal else "the study has no regime that could be one"
        raise ValueError(f"{where}.donor: {graft.donor!r} is {why}; {listed}")


def spans(numbers: Iterable[int]) -> str:
    """0, 1, 2, 5 as 0-2, 5."""
    said: list[list[int]] = []
    for n in sorted(numbers):
        if said and n == said[-1][1] + 1:
            said[-1][1] = n
        else:
            said.append([n, n])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in said)


def _head(value: Any) -> Any:
    """(3, 1) of 3.1 as text."""
    if not isinstance(value, str):
        return value
    layer, dot, head = value.partition(".")
    if not (dot and layer.isdecimal() and head.isdecimal()):
        raise ValueError(f"{value!r}; legal: layer.head, such as 3.1")
    return int(layer), int(head)


def _and(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
