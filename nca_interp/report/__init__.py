"""From tidy tables to one offline HTML file. Computes no statistics and never imports torch."""
