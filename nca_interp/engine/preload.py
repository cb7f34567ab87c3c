"""Imported once by the fork server: what every worker needs, so that a job starts in milliseconds."""

import transformer_lens.model_bridge.sources  # noqa: F401
import transformers.models.llama.modeling_llama  # noqa: F401

import nca_interp.analysis.engine
import nca_interp.data.tokens
import nca_interp.train.loop  # noqa: F401
