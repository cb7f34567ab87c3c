"""NCA settings whose complexity is nearest to a corpus."""
