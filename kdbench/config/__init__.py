"""Configuration: schemas, composition, checks, and messages for mistakes."""
