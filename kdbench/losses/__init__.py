"""The weighted sum of objectives that a recipe names."""
