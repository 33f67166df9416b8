"""`kdbench bench`: what a training step costs, beside the loop that the literature writes."""
