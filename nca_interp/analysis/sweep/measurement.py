"""Does transfer gain follow the distance from the domain, or something else of the data?"""

from nca_interp.measurement import Measurement

MEASUREMENT = Measurement(
    name="sweep",
    about="Gain of NCA of many complexities against their distance from the domain: matching beside its rivals.",
    order=45,
    needs=("inference",),
    tables="nca_interp.analysis.sweep.tables:tables",
    section="nca_interp.report.sections.sweep:section",
    columns={
        "sweep": "domain regime label n_states band_low band_high dt n gain low high verdict complexity second:text second_value "
        "corpus corpus_second distance learnability learned:text learned_seeds measured_seeds accuracy rival_accuracy counted why:text",
        "sweep_tests": "family domain hypothesis:text predictor:text arms seeds domains effect low high rho p tests p_holm p_floor "
        "rival:text rival_rho given p_given verdict sentence",
    },
)
