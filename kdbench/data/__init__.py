"""Data sets as uint8 tensors on the device, and the batches drawn from them."""
