"""Grids of runs: what is missing, what it costs, and who runs it."""
