"""`kdbench bench`: the cost of a training step compared with the loop of the literature."""
