"""Scores of a network on a split: classification, calibration, similarity, tokens, generated text."""
