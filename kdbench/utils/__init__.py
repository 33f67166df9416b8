"""Helpers that know nothing of distillation: paths, hashing, files, formatting, hardware, seeding."""
