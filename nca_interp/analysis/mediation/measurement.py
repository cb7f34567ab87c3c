"""Which heads the rules of a study mean, and what they mediate of what pre-pre-training gains."""

from nca_interp.measurement import Measurement

KINDS = frozenset({"study", "one", "pair", "series", "several"})
MEASUREMENT = (
    Measurement(
        name="head-rules",
        about="Which heads of a pre-pre-training the rules of its arms mean; decided once, before the arms are trained.",
        order=12,
        by_request=KINDS,  # the plan of a study asks for it where an arm needs it
        applies="nca_interp.analysis.mediation.rule:applies",
        measure="nca_interp.analysis.mediation.rule:measure",
    ),
    Measurement(
        name="mediation",
        about="What those heads mediate of what pre-pre-training gains: trained arms, and ablation at the end of language.",
        order=36,
        needs=("probes", "retrieval"),
        applies="nca_interp.analysis.mediation.ablation:applies",
        measure="nca_interp.analysis.mediation.ablation:measure",
        options="nca_interp.analysis.mediation.ablation:MediationOptions",
        tables="nca_interp.analysis.mediation.tables:tables",
        section="nca_interp.report.sections.mediation:sections",
        columns={
            "head_rules": "run regime seed rule:text probe words:text heads:text best level chance above below sets sentence",
            "mediation": "domain regime scratch:text rule:text probe way:text measure family n planned gain gain_low gain_high moved moved_low "
            "moved_high random excess excess_low excess_high share share_low share_high random_share sets p p_floor p_adjusted "
            "p_none_adjusted margin verdict sentence",
            "mediation_seeds": "domain regime rule:text probe way:text measure seed number scratch_value full_value value gain moved",
            "blinded": "domain regime scratch:text stages:text n planned gain gain_low gain_high hindered hindered_low hindered_high removed "
            "removed_low removed_high share share_low share_high p p_adjusted p_none_adjusted margin verdict sentence",
        },
    ),
)
