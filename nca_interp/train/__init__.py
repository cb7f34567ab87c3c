"""One accelerate loop for every stage; exact resume; checkpoints that transformers opens alone."""
