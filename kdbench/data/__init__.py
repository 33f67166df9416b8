"""Data sets and their batches as functions of (seed, epoch, step)."""
