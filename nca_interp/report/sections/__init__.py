"""Sections of a report, each from tidy tables."""
