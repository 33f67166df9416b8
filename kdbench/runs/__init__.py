"""Runs: plan, prepare, execute, record."""
