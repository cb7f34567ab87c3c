"""Which activations carry what tells two prompts apart?"""

from nca_interp.measurement import Measurement

MEASUREMENT = Measurement(
    name="pairs",
    about="A pair of prompts: activation and path patching from the clean to the corrupted one.",
    order=36,
    wanted="nca_interp.analysis.pairs.pair:wanted",
    flags={"clean": "clean", "corrupt": "corrupt", "answer": "answer", "wrong": "wrong"},
    applies="nca_interp.analysis.prompts.texts:applies",
    options="nca_interp.analysis.pairs.pair:Options",
    measure="nca_interp.analysis.pairs.study:measure",
    tables="nca_interp.analysis.pairs.study:tables",
    summary="nca_interp.analysis.pairs.study:summary",
    section="nca_interp.report.sections.pairs:section",
    columns={
        "prompt_pairs": "run regime domain seed stage step clean:text corrupt:text answer:text wrong:text quantity:text unit clean_value "
        "corrupt_value clean_probability corrupt_probability note",
        "pair_tokens": "run step position clean:text corrupt:text",
        "patches": "run regime domain seed stage step site layer position head from_layer from_head value recovery",
    },
)
