"""The error wrapper of commands: expected errors become one line and an exit code."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from kdbench.core.errors import RunError

USAGE, FAILED = 2, 1
"""Exit codes for a mistake on the command line, and for a command that failed."""

Arguments = TypeVar("Arguments", bound=Sequence[str])


def command(main: Callable[[Arguments], int]) -> Callable[[Arguments], int]:
    """Wrap the main function of a command.

    A ValueError, which is a mistake of the user, is printed as one line and ends the command with `USAGE`; a RunError
    ends it with `FAILED`.

    Args:
        main: Takes the arguments and returns the exit code.
    """

    @functools.wraps(main)
    def wrapped(arguments: Arguments) -> int:
        try:
            return main(arguments)
        except (ValueError, RunError) as error:
            print(f"kdbench: {error}", file=sys.stderr)
            return USAGE if isinstance(error, ValueError) else FAILED

    return wrapped
