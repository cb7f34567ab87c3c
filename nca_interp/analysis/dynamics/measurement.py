"""When heads appear, and whether they stay: from the tables of probes and of inference over training."""

from nca_interp.measurement import Measurement

MEASUREMENT = Measurement(
    name="dynamics",
    about="When heads appear over training, and whether they stay across the swap.",
    order=20,
    needs=("probes", "inference"),
    tables="nca_interp.analysis.dynamics.tables:tables",
    section="nca_interp.report.sections.emergence:section",
    columns={
        "emergence": "run regime domain seed stage probe level state after_step by_step after_tokens by_tokens first last highest "
        "checkpoints spacing resolution bend bend_low bend_high distance_low distance_high order",
        "persistence": "run regime domain seed stage probe ppt_run heads level chance ppt_highest swap_highest end_highest best "
        "persisted share best_ppt best_swap best_end rho p scratch_rho half_state half_after half_by",
        "timing": "family domain stage probe treated control budget n effect low high earlier later p_sign p p_bh p_together "
        "p_together_bh finest verdict sentence",
    },
)
