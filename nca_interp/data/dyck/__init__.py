"""Dyck brackets: rows and their statistics."""
