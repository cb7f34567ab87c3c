"""Are the networks alike inside?"""

from typing import Any

from nca_interp.measurement import Measurement


def cost(run: Any, options: Any) -> float:
    """Seconds that it takes, about: spectra of the weights, and the rows that are compared, as so many tokens."""
    from nca_interp.analysis.stimuli.size import OVERHEAD, seconds

    return sum(seconds(run.checkpoint(step), 5000) - 0.9 * OVERHEAD for step in run.steps) or 1.0


MEASUREMENT = Measurement(
    name="compare",
    about="How alike the networks are inside: CKA, ranks, weights, directions of updates.",
    order=60,
    by_request=frozenset({"study", "one"}),
    cost=cost,
    measure="nca_interp.analysis.similarity.study:measure",
    tables="nca_interp.analysis.similarity.study:tables",
    section="nca_interp.report.sections.similarity:section",
    columns={
        "alike": "domain regime_a regime_b layer across ceiling effect low high margin n verdict sentence",
        "similarity": "comparison domain regime_a regime_b seed_a seed_b run_a run_b:text step_a tokens layer_a layer_b value n",
        "apart": "run other tensor kind layer distance cosine",
        "streams": "run regime domain seed stage step tokens layer effective_rank participation n",
        "weights": "run regime domain seed stage step tokens tensor kind layer norm displacement effective_rank participation",
        "head_norms": "run regime domain seed stage step layer head ov_norm qk_norm",
        "updates": "comparison domain regime_a regime_b seed tensor kind layer cosine",
        "not_compared": "run other reason",
        "not_read": "run reason",
    },
)
