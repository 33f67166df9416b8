"""Types and contracts that every other room shares."""
