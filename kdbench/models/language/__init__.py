"""T5 and causal language models, and generation."""
