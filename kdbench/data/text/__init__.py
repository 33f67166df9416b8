"""Tokenised text data sets."""
