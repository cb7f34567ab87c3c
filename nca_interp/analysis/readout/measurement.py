"""Is the rule in the network?"""

from nca_interp.measurement import Measurement

MEASUREMENT = Measurement(
    name="decode",
    about="What a linear read-out finds of the rule in the layers of a model pre-pre-trained on NCA.",
    order=50,
    applies="nca_interp.analysis.inference.study:applies",
    measure="nca_interp.analysis.readout.study:measure",
    tables="nca_interp.analysis.readout.study:tables",
    section="nca_interp.report.sections.readout:section",
    columns={
        "decode": "run regime domain seed stage step attribute frames source layer spearman low high r2 n",
        "decoded": "run regime domain seed stage step attribute verdict frames layer spearman low high rival rival_spearman "
        "effect effect_low effect_high n sentence",
    },
)
