"""The plan is kept with its hash before the first run; what changes afterwards is shown and decides nothing."""

from __future__ import annotations

import json

import pytest

from nca_interp.analysis.verdicts.declare import declare
from nca_interp.analysis.verdicts.plan import ANEW, contrasts_of, declared, kept_plan
from nca_interp.analysis.verdicts.power import power_plan, spread_of
from nca_interp.base import UserError
from nca_interp.config import Domain, ModelConfig, Primary, Regime, Seeds, StageConfig, Study
from nca_interp.data.specs import ArithmeticSpec, DyckSpec, NcaSpec, QaSpec, TextSpec
from nca_interp.engine.plan import make_plan
from nca_interp.store import StudyDir

STAGE = StageConfig(steps=4, batch_size=2, lr=1e-3)
NCA = NcaSpec(grid=6, n_states=2, band=None)
QA = QaSpec(n_train=8, n_val=4, n_test=8, arithmetic=ArithmeticSpec(digits=1, max_steps=1))


def _study(**changes) -> Study:
    base = Study(
        name="tiny", title="t", model=ModelConfig(n_layers=1, d_model=16, n_heads=2, d_mlp=24, n_ctx=64), ppt=STAGE, pt=STAGE, ft=STAGE,
        seeds=tuple(Seeds(init=s, order=s, rules=s) for s in range(3)),
        regimes=(
            Regime(name="scratch", label="scratch"), Regime(name="nca", label="NCA", source=NCA),
            Regime(name="dyck", label="Dyck", source=DyckSpec(k=8, max_depth=4), ft=False, runs={"web": 2, "math": 1}),
            Regime(name="no-attn", label="n", source=NCA, keep=("mlp",), role="transfer", runs={"web": 3, "math": 0}),
        ),
        domains=(
            Domain(name="web", label="web", source=TextSpec(source="arithmetic:")),
            Domain(name="math", label="math", source=TextSpec(source="arithmetic:"), qa=QA),
        ),
    )  # fmt: skip
    return Study.model_validate({**base.model_dump(), **changes})


def _kept(tmp_path, study: Study) -> StudyDir:
    directory = StudyDir(tmp_path / "study")
    directory.claim(study.model_dump(mode="json"), {})
    declare(directory, study)
    return directory


def test_the_plan_follows_from_the_recipe():
    plan = {(c.domain, c.metric, c.treated, c.control): (c.family, len(c.seeds)) for c in contrasts_of(_study())}
    assert plan == {
        ("web", "val_loss", "nca", "scratch"): ("regime", 3), ("web", "val_loss", "nca", "dyck"): ("regime", 2),
        ("web", "val_loss", "no-attn", "nca"): ("transfer", 3), ("web", "val_loss", "no-attn", "scratch"): ("transfer", 3),
        ("math", "val_loss", "nca", "scratch"): ("regime", 3), ("math", "accuracy", "nca", "scratch"): ("reasoning", 3),
        ("math", "val_loss", "nca", "dyck"): ("regime", 1),
    }  # fmt: skip


def test_a_change_after_the_first_run_is_shown_and_decides_nothing(tmp_path):
    study = _study()
    directory = _kept(tmp_path, study)
    assert not declared(directory, study).table.changed.any()
    later = _study(margin=0.5, seeds=[Seeds(init=s, order=s, rules=s) for s in range(8)])
    found = declared(directory, later)
    assert {c.margin for c in found.contrasts if c.metric == "val_loss"} == {0.01}
    assert all(len(c.seeds) <= 3 for c in found.contrasts)
    row = found.table.set_index("item").loc["web: nca against scratch, val_loss"]
    assert (row.declared, row.now, row.changed) == ("3 seed(s), margin 0.01", "8 seed(s), margin 0.5", True)
    more = _study(regimes=[*study.regimes, Regime(name="low", label="low", source=NCA, role="complexity")])
    added = declared(directory, more)
    assert {c.treated for c in added.added} == {"low"}
    assert len(added.contrasts) == len(found.contrasts)
    declare(directory, later)  # a second start does not replace it
    assert json.loads(directory.plan.read_text())["plan"]["seeds"] == [s.model_dump() for s in study.seeds]


def test_a_plan_that_was_edited_is_refused_and_a_missing_one_is_told(tmp_path):
    study = _study()
    directory = _kept(tmp_path, study)
    kept = json.loads(directory.plan.read_text())
    kept["plan"]["contrasts"][0]["margin"] = 0.5
    directory.plan.write_text(json.dumps(kept))
    with pytest.raises(UserError, match="not the plan that was hashed"):
        declared(directory, study)
    directory.plan.unlink()
    found = declared(directory, study)
    assert set(found.table.declared) == {"not declared"}
    assert not found.table.changed.any()
    run = directory.run("pt.nca.web.s0")
    run.path.mkdir(parents=True)
    run.config.write_text("{}")
    declare(directory, study)
    assert not directory.plan.exists()  # after the first run it would be no plan


def _begun(directory: StudyDir, study: Study, run_id: str, rows: int) -> None:
    """A run of a study with so many rows of metrics."""
    config = next(run for run in make_plan(study, "fp32", analyze=False).runs if run.id == run_id)
    run = directory.run(run_id)
    run.path.mkdir(parents=True, exist_ok=True)
    run.config.write_text(config.model_dump_json())
    for step in range(rows):
        run.append_metrics({"step": step, "val_loss": 1.0})


def test_a_plan_is_declared_anew_as_long_as_nothing_that_it_compares_is_known(tmp_path):
    study = _study()
    directory = _kept(tmp_path, study)
    first = json.loads(directory.plan.read_text())
    _begun(directory, study, "ppt.nca.s0", 3)  # a synthetic stage is compared with nothing
    _begun(directory, study, "pt.nca.web.s0", 0)  # begun, and nothing is known of it
    later = _study(margin=0.5, seeds=[Seeds(init=s, order=s, rules=s) for s in range(8)])
    assert not declare(directory, later)
    assert json.loads(directory.plan.read_text()) == first
    assert declare(directory, study, "again")  # nothing to declare
    assert json.loads(directory.plan.read_text()) == first
    assert declare(directory, later, "nca-interp train x --declare")
    found = declared(directory, later)
    assert {c.margin for c in found.contrasts if c.metric == "val_loss"} == {0.5}
    assert not found.table.changed.any()
    kept = kept_plan(directory)
    assert kept["before"] == [first]
    said = found.table.set_index("item").loc[ANEW].declared
    assert said.startswith("before any run that it compares was evaluated, in place of " + first["sha256"][:12])
    assert said.endswith("by: nca-interp train x --declare")
    _begun(directory, study, "pt.nca.web.s0", 1)
    with pytest.raises(UserError, match=r"--declare: pt\.nca\.web\.s0 has been evaluated.*decides nothing"):
        declare(directory, study, "once more")
    assert kept_plan(directory) == kept
    assert declared(directory, study).table.changed.any()


@pytest.mark.parametrize(
    ("run", "counts"), [("pt.scratch.web.s0", True), ("pt.dyck.web.s0", True), ("ppt.nca.s0", False)]
)
def test_runs_that_began_without_a_plan_count_where_they_are_compared(tmp_path, run, counts):
    study = _study()
    directory = StudyDir(tmp_path / "study")
    directory.claim(study.model_dump(mode="json"), {})
    _begun(directory, study, run, 1)
    assert not declare(directory, study)
    if counts:
        with pytest.raises(UserError, match=f"{run} has been evaluated"):
            declare(directory, study, "now")
        assert not directory.plan.exists()
    else:
        assert declare(directory, study, "now")
        assert "in place of none" in declared(directory, study).table.set_index("item").loc[ANEW].declared


def test_the_primary_comparison_is_one_of_the_plan():
    first = Primary(treated="nca", control="scratch", domain="web")
    plan = contrasts_of(_study(primary=first))
    assert [c.name for c in plan if c.primary] == ["web: nca against scratch, val_loss"]
    with pytest.raises(UserError, match="no planned comparison; legal: web: nca against scratch"):
        contrasts_of(_study(primary=first.model_copy(update={"treated": "dyck"})))
    with pytest.raises(ValueError, match="unknown 'nac'.*did you mean 'nca'"):
        _study(primary=first.model_copy(update={"treated": "nac"}))


def test_the_power_plan_says_what_the_seeds_can_show(tmp_path):
    lines = "\n".join(power_plan(_study(), None))
    # six comparisons have two seeds or more; 3 seeds at 0.05 / 6 need 7.9 standard deviations
    assert "6 planned comparisons of 2 seeds or more" in lines
    assert "can reach 5 % from 8 seeds on" in lines
    assumed = "\n".join(
        power_plan(_study(primary=Primary(treated="nca", control="scratch", domain="web")), spread_of("0.02"))
    )
    assert "0.02 nats (assumed)" in assumed
    assert "primary" in assumed
    pilot = StudyDir(tmp_path)
    pilot.tables.mkdir()
    pilot.table("pairs").write_text(
        "metric,domain,treated,control,seed,difference\n" + "".join(f"val_loss,web,nca,scratch,{s},{d}\n" for s, d in enumerate((-0.01, 0.0, 0.01)))
    )  # fmt: skip
    spread = spread_of(str(tmp_path))
    assert spread is not None
    assert spread.value == pytest.approx(0.01)
    assert (spread.low, spread.high) == pytest.approx((0.00521, 0.06285), rel=1e-3)  # chi-squared, 2 degrees of freedom
    for wrong in ("-1", "0", "nan", str(tmp_path / "nowhere")):
        with pytest.raises(UserError, match="--spread"):
            spread_of(wrong)
    lonely = _study(
        seeds=[Seeds(init=0, order=0, rules=0)], regimes=[r.model_copy(update={"runs": None}) for r in _study().regimes]
    )
    assert list(power_plan(lonely, None)) == [
        "power       no comparison has two seeds, so the study can give no verdict"
    ]
