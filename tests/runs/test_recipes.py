"""Recipes: what they say of themselves, what they cost, what they share."""

from __future__ import annotations

import sys

import pytest

from nca_interp import discover
from nca_interp.analysis.verdicts.plan import contrasts_of
from nca_interp.arms import CHOSEN, CHOSEN_SCRATCH
from nca_interp.config import Regime, Study
from nca_interp.engine.plan import make_plan
from nca_interp.model.presets import PRESETS
from nca_interp.overrides import call_recipe
from nca_interp.phase import Phase

RECIPES = sorted(discover.load("runs"))
STUDIES = [name for name in RECIPES if name != "phase"]


def study(name: str) -> Study:
    found = call_recipe(discover.find("runs", name).value, [])
    assert isinstance(found, Study)
    return found


def tokens(plan) -> int:
    return sum(run.config.steps * run.config.batch_size * run.model.n_ctx for run in plan.runs)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_says_what_it_can_and_cannot_conclude(name):
    about = discover.find("runs", name).about
    assert "Can conclude" in about
    assert "Cannot" in about
    assert len(about.split("\n")[0]) <= 130


@pytest.mark.parametrize("name", STUDIES)
def test_arms_of_one_source_and_budget_share_their_synthetic_stage(name):
    recipe = study(name)
    plan = make_plan(recipe, "fp32", analyze=False)
    for seed in range(len(recipe.seeds)):
        sources = {
            (str(r.source), str(recipe.ppt_of(r)))
            for r in recipe.regimes
            if r.source is not None
            and any(run.regime == r.name and run.seed == seed for run in plan.runs if run.stage == "pt")
        }
        assert sum(run.stage == "ppt" and run.seed == seed for run in plan.runs) == len(sources)


def test_a_budget_of_its_own_is_a_synthetic_stage_of_its_own():
    base = study("smoke")
    nca = base.regime("nca")
    longer = nca.model_copy(update={"name": "nca-long", "ppt": base.ppt.model_copy(update={"steps": 12}), "ft": False})
    twin = longer.model_copy(update={"name": "nca-twin", "keep": ("attn",)})
    plan = make_plan(
        Study.model_validate({**base.model_dump(), "regimes": [r.model_dump() for r in (*base.regimes, longer, twin)]}),
        "fp32", domain="web", seed=0, analyze=False,
    )  # fmt: skip
    runs = {run.id: run for run in plan.runs}
    assert runs["pt.nca.web.s0"].parent == "ppt.nca.s0"
    assert runs["pt.nca-long.web.s0"].parent == runs["pt.nca-twin.web.s0"].parent == "ppt.nca-long.s0"
    assert (runs["ppt.nca.s0"].config.steps, runs["ppt.nca-long.s0"].config.steps) == (6, 12)
    with pytest.raises(
        ValueError, match=r"regimes.scratch.ppt: a budget for pre-pre-training, which a regime from scratch"
    ):
        Study.model_validate(
            {**base.model_dump(), "regimes": [Regime(name="scratch", label="s", ppt=base.ppt).model_dump()]}
        )


def test_laptop_fits_an_evening():
    plan = make_plan(study("laptop"), "fp32", analyze=False)
    at_20_000 = tokens(plan) / (2 * 20_000) / 3600
    assert at_20_000 < 4 * 0.85, "a seventh of four hours is for token files, analysis and report"


def test_laptop_holds_what_the_study_of_the_question_needs():
    recipe = study("laptop")
    regimes = {r.name: r for r in recipe.regimes}
    assert len(recipe.seeds) == 5
    assert recipe.model == PRESETS["tiny"]
    for name in ("scratch", "nca", "c4", "dyck", "repeat", "nca-shuffled"):
        assert regimes[name].swap.embed_std == 1.0
        assert regimes[f"{name}-chosen"].swap == (CHOSEN_SCRATCH if name == "scratch" else CHOSEN)
        assert regimes[name].source == regimes[f"{name}-chosen"].source
    cells = [r for r in recipe.regimes if r.role == "complexity"]
    assert len(cells) >= 5  # and nca
    assert {len([c for c in (*cells, regimes["nca"]) if c.source.n_states == n]) for n in (2, 3, 4)} == {2}
    assert all(set(c.runs) == {"web"} for c in cells)
    assert {r.name for r in recipe.regimes if r.name.startswith("nca-no-")} >= {
        "nca-no-attn",
        "nca-no-mlp",
        "nca-no-norm",
    }
    for arm in ("nca-without-nca-stencil", "nca-only-nca-stencil"):
        assert sum(r.name.startswith(arm) for r in recipe.regimes) == 1 + 4, "the heads and four random sets"
    budgets = {(recipe.domain(d).pt or recipe.pt).steps for d in ("web", "web-short", "web-long")}
    assert len(budgets) == 3
    made = {(c.domain, c.treated, c.control) for c in contrasts_of(recipe)}
    for domain in ("web", "web-short", "web-long"):
        assert {(domain, "nca", "scratch"), (domain, "nca-chosen", "best scratch")} <= made
    assert [c for c in contrasts_of(recipe) if c.primary]


def test_gpu_fits_a_quarter_of_an_hour_as_planned_and_needs_no_network():
    recipe = study("gpu")
    own = sys.modules[discover.find("runs", "gpu").value.__module__]
    plan = make_plan(recipe, "bf16", analyze=False)
    seconds = (
        sum(job.flops for job in plan.jobs) / (own.MFU * own.PEAK)
        + own.STARTED_SECONDS * len(plan.runs)
        + own.TOKENS_SECONDS
    )
    assert seconds < 0.85 * 15 * 60
    assert all(d.source.source.startswith("site:") and d.source.tokenizer.kind == "bpe" for d in recipe.domains)
    assert 45e6 < recipe.model.n_params_body < 55e6
    for name in ("gpu", "gpu-long"):
        assert "UNMEASURED" in discover.find("runs", name).about


@pytest.mark.parametrize("name", ["paper", "paper-400m", "paper-600m", "published-code"])
def test_the_paper_s_recipes_draw_embeddings_as_released(name):
    model = study(name).model
    assert model.embed_std == 1.0
    assert model.unembed_std == pytest.approx((3 * model.d_model) ** -0.5)


def test_published_paper_ties_its_embeddings_and_says_so():
    model = study("published-paper").model
    assert (model.tied, model.embed_std) == (True, 0.02)
    assert "tied" in discover.find("runs", "published-paper").about


def test_phase_is_a_night_and_its_cells_share_scratch_and_synthetic_stages():
    found = call_recipe(discover.find("runs", "phase").value, [])
    assert isinstance(found, Phase)
    rate = 31e9 * 2  # FLOP/s of two cores: the smaller model at 25,000 tokens/s on each
    assert found.budget / rate / 3600 < 8.2
    assert len(found.cells) == 64
    assert {len({cell.levels[i] for cell in found.cells}) for i in range(5)} == {2, 4}
    for part in found.studies:
        runs = make_plan(part, "fp32", seed=0, analyze=False).runs
        assert sum(run.stage == "ppt" for run in runs) == 8  # alphabets x learning rates x budgets
        assert sum(run.regime.startswith("scratch") for run in runs) == 2
        assert sum(run.stage == "pt" for run in runs) == 2 + 8 * 3  # `crossed` needs no run of its own
    assert len({part.model.n_ctx for part in found.studies}) == 1
    crossed = [c for c in found.cells if ".crossed." in c.name]
    assert {c.control for c in crossed} == {"scratch-small"}
    assert {c.treated for c in crossed} <= {c.treated for c in found.cells if c.control == "scratch-published"}
