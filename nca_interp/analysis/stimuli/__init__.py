"""What models are shown, and what stimuli need to know of a checkpoint."""
