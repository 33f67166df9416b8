"""kdbench: dataset x teacher x student x loss, on a schedule, with a seed, beside the published number."""

__version__ = "0.1.0"
