"""Stored teacher answers, written once and read by every later run."""
