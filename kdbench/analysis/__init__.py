"""Instruments that describe a trained network, and their plots."""
