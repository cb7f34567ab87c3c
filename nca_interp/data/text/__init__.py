"""Natural text and question-answer pairs: reading, tokenising, packing."""
