"""Which tokens each head reads and writes, read off its weights."""
