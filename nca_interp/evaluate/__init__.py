"""Reasoning tasks: what models are asked, how they answer, how answers are scored."""
