"""From a study to a graph of jobs, and running that graph here."""
