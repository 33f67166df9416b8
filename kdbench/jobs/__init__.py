"""Commands as processes of their own, so that a kill of one is nothing to the others.

`kdbench table` and `hydra/launcher=process` start their runs here.
"""
