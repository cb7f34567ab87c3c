"""What happens over training: emergence, persistence, and comparisons of the two."""
