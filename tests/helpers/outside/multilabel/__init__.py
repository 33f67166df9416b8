"""A package that brings a task of its own to kdbench: several labels for each image."""
