"""Whole pages beside the report of a study."""
