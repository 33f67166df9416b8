"""Commands as isolated processes: killing one does not affect the others.

`kdbench table` and `hydra/launcher=process` start their runs here.
"""
