"""The command line, one module a command; nothing is imported before it is called."""
