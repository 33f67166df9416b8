"""`kdbench bench`: what a training step costs beside the literature's loop."""
