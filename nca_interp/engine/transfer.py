"""A study of one question: what does a trained checkpoint give to language training, and which of its parts carry it?

Its arms: the whole body with fresh embeddings (full transfer), scratch of the same architecture and seeds, module types
re-initialised (necessity) or kept alone (sufficiency), and both main arms at the published scale of the embedding
(arXiv 2603.10055, section 5.3.1; docs/transfer_checkpoint.md).
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from nca_interp.arms import published, swap_arms
from nca_interp.base import UserError, digest
from nca_interp.checkpoint_spec import CheckpointSpec
from nca_interp.config import (
    Domain,
    ModelConfig,
    Primary,
    Regime,
    StageConfig,
    Study,
    paired_seeds,
    reinit_arms,
    suggest,
)
from nca_interp.data.specs import TextSpec, TokenizerSpec
from nca_interp.swap_policy import SwapPolicy

ARMS = {
    "full": "full transfer: the whole body, embeddings drawn anew (always there)",
    "scratch": "the same architecture and seeds from initial weights (always there)",
    "reinit-attn": "attention, and learned positions, back to initial weights",
    "reinit-mlp": "MLPs back to initial weights",
    "reinit-norm": "norms back to initial weights",
    "keep-attn": "only attention, and learned positions, carried over",
    "published": "full transfer and scratch with embeddings of the published scale, N(0, 1), untied",
}
"""Arms of a transfer study by the name that the command line gives them."""
RECIPE = "laptop"
"""Whose domains are called by their names alone."""
N_CTX, STEPS, SEEDS, BATCH, LR, VOCABULARY, MAX_BYTES = 128, 200, 3, 8, 1e-3, 512, 8_000_000
"""Defaults: eight arms, three seeds, 4.9M tokens in all, so that a tiny model ends within minutes on two cores."""


def named_domain(text: str) -> Domain:
    """The domain that `NAME` (of the recipe `laptop`) or `RECIPE.NAME` means, without a budget of its own and without questions;
    UserError with the nearest name where there is none."""
    from nca_interp import discover
    from nca_interp.overrides import call_study

    recipe, _, name = text.rpartition(".")
    study = call_study(discover.find("runs", recipe or RECIPE).value, [])
    names = [domain.name for domain in study.domains]
    if name not in names:
        raise UserError(f"--domain {text}: recipe {recipe or RECIPE!r} has no domain {name!r}{suggest(name, names)}")
    return study.domain(name).model_copy(update={"pt": None, "qa": None})


def text_domain(files: Sequence[Path]) -> Domain:
    """A domain of the user's own files; UserError where one is missing or of a kind that is not read."""
    from nca_interp.data.text.raw import check_kind

    for file in files:
        if not file.is_file():
            raise UserError(f"--text {file}: no such file")
        if "," in str(file.resolve()):
            raise UserError(f"--text {file}: a comma in its path separates files; rename it")
        check_kind(file)
    source = "files:" + ",".join(glob.escape(str(file.resolve())) for file in files)
    label = files[0].name if len(files) == 1 else f"{files[0].name} and {len(files) - 1} more files"
    tokenizer = TokenizerSpec(vocab_size=VOCABULARY)
    return Domain(name="text", label=label, source=TextSpec(source=source, tokenizer=tokenizer, max_bytes=MAX_BYTES))


def chosen(names: Iterable[str] | None) -> list[str]:
    """The arms that were asked for (comma-separated, repeatable), full and scratch in any case; None: all."""
    if names is None:
        return list(ARMS)
    asked = [name.strip() for one in names for name in one.split(",")]
    for name in asked:
        if name not in ARMS:
            raise UserError(f"--arms {name}: unknown arm{suggest(name, ARMS)}")
    return [name for name in ARMS if name in asked or name in ("full", "scratch")]


def arms_of(parent: CheckpointSpec, model: ModelConfig, names: Sequence[str], label: str) -> tuple[Regime, ...]:
    """The regimes of a transfer study from `parent`, those of `names` (ARMS)."""
    scratch = Regime(name="scratch", label="scratch", ft=False)
    full = Regime(name="full", label=f"full transfer from {label}", source=parent, ft=False)
    reinit = {f"reinit-{arm.name.rpartition('-')[2]}": arm for arm in reinit_arms(full, None)}
    alone = {
        "name": "full-keep-attn", "label": "only attention kept", "keep": ("attn",), "role": "transfer", "checkpoints": "ends"
    }  # fmt: skip
    arms = {**reinit, "keep-attn": full.model_copy(update=alone)}
    drawn = published(model.d_model)
    policy = {
        "published": SwapPolicy(**{**drawn.model_dump(exclude_unset=True), **({"tied": False} if model.tied else {})})
    }
    at_scale = (*swap_arms(scratch, policy), *swap_arms(full, policy)) if "published" in names else ()
    return (scratch, full, *(arms[name] for name in names if name in arms), *at_scale)


def transfer_study(
    places: Sequence[str], domain: Domain, *, arms: Iterable[str] | None = None, seeds: int | None = None, steps: int = STEPS
) -> Study:  # fmt: skip
    """The study of one checkpoint, or of several as seeds. UserError for what cannot be trained on."""
    from nca_interp.model.parent import parent_of

    names = chosen(arms)
    places = [str(Path(place).resolve()) if Path(place).exists() else place for place in places]
    if twice := [place for place in places if places.count(place) > 1]:
        raise UserError(f"--checkpoint {twice[0]}: it is named twice; as two seeds it would be one replication")
    model = parent_of(places[0]).model
    model = model.model_copy(update={"n_ctx": min(model.n_ctx, N_CTX)})
    labels = [_label(place) for place in places]
    several = len(places) > 1
    n = seeds if seeds is not None else (len(places) if several else SEEDS)
    label = f"{len(places)} checkpoints" if several else labels[0]
    if several and n != len(places):
        raise UserError(
            f"--seeds: {n} with {len(places)} checkpoints, each of which is one seed; legal: {len(places)}, or one checkpoint"
        )
    pt = StageConfig(
        steps=steps, batch_size=BATCH, lr=LR, eval_every=max(1, steps // 8), checkpoint_every=max(1, steps // 4),
        checkpoints="even",
    )  # fmt: skip
    return Study(
        name=f"transfer-{_slug(labels[0])}-{digest([places, domain.name], 6)}",
        title=f"What {label} give{'' if several else 's'} to language training, and which part carries it",
        model=model,
        regimes=arms_of(CheckpointSpec(paths=tuple(places)), model, names, label),
        domains=(domain,),
        seeds=paired_seeds(n),
        primary=Primary(treated="full", control="scratch", domain=domain.name),
        ppt=pt,
        pt=pt,
        val_rows=64,
        deviations=(
            f"the parent was not trained here: {', '.join(labels)}; what it saw, and for how long, is its authors' to say",
        ),
    )


def _label(place: str) -> str:
    """What a checkpoint is called: hub name, or the last parts of its path that say more than a step."""
    path = Path(place)
    if not path.is_absolute():
        return place
    generic = re.compile(r"(step|checkpoint|iter|global_step)?[-_]?\d+|checkpoints|final|model|hf", re.IGNORECASE)
    parts = [path.name]
    while generic.fullmatch(parts[0]) and len(parts) < 4 and path.parent.name:
        path = path.parent
        parts.insert(0, path.name)
    return "/".join(part for part in parts if part != "checkpoints")


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")[-20:].strip("-") or "checkpoint"
