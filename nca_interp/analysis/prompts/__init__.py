"""Own prompts: what a model says at each token, and which of its parts say it."""
