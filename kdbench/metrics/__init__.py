"""Scores of a network on a split, per task."""
