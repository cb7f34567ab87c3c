"""One file a benchmark; copy one to add one."""
