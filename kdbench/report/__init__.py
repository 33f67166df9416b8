"""Tables against published numbers, and their pictures."""
