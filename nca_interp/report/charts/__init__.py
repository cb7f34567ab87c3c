"""Kinds of charts, each from a tidy table."""
