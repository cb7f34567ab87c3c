"""Statistics over seeds, and the words that they allow."""
