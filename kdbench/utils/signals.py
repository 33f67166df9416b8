"""Reacting to Ctrl-C and SIGTERM for a while."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def listening(react: Callable[[int], None]) -> Iterator[None]:
    """Within, in the main thread: `react` is told the number of each SIGINT and SIGTERM, and nothing else happens."""
    before = {
        number: signal.signal(number, lambda number, _: react(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
