"""Temporary handling of Ctrl-C and SIGTERM."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def handle_signals(handler: Callable[[int], None]) -> Iterator[None]:
    """Replace the handlers of SIGINT and SIGTERM within a `with` block; main thread only.

    Args:
        handler: Called with the number of each signal; the default action does not happen.
    """
    previous = {
        number: signal.signal(number, lambda number, _: handler(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, original in previous.items():
            signal.signal(number, original)
