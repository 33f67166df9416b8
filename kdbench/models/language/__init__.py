"""Language models: T5 encoder-decoders, causal models, and text generation."""
