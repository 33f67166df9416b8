"""Networks by name, with named features; checkpoints in kdbench's own and in the official format."""
