"""What a model can do: reasoning tasks, by accuracy and pass@k."""

from nca_interp.measurement import Measurement

MEASUREMENT = Measurement(
    name="reasoning",
    about="Reasoning tasks (--tasks gsm8k=FILE,humaneval=FILE,recall:2,...): accuracy, pass@k, contrasts of regimes.",
    order=70,
    wanted="nca_interp.analysis.reasoning.options:wanted",
    applies="nca_interp.analysis.reasoning.study:applies",
    fine_tuned=True,
    options="nca_interp.analysis.reasoning.options:Options",
    flags={
        "tasks": "tasks", "examples": "examples", "shots": "shots", "sampling": "sampling", "samples": "samples", "k": "k",
        "limit": "limit",
    },
    switches={"run-generated-code": "run_generated_code"},
    parts="nca_interp.analysis.reasoning.options:parts",
    cost="nca_interp.analysis.reasoning.options:cost",
    measure="nca_interp.analysis.reasoning.study:measure",
    tables="nca_interp.analysis.reasoning.tables:tables",
    summary="nca_interp.analysis.reasoning.tables:summary",
    section="nca_interp.report.sections.reasoning:section",
    columns={
        "evaluations": "run regime domain seed stage step tokens task:text part:text sampling:text k samples value low high normalised chance "
        "problems skipped final",
        "evaluation_regimes": "task:text regime domain stage k value low high seeds problems",
        "evaluation_contrasts": "family domain metric treated control primary n planned effect low high low_all high_all p p_holm p_exact "
        "p_exact_floor comparisons margin detectable ppl_change_pct verdict lost pending hangs_on later_n sentence task:text k",
        "evaluation_published": "task:text k metric:text regime published ours ours_low ours_high why source",
        "evaluation_notes": "run step note",
    },
)  # fmt: skip
