"""Errors whose message is meant for users."""

from __future__ import annotations


class RunError(RuntimeError):
    """A run that cannot go on, for a reason that its user should read (no traceback needed)."""


class Interrupted(RunError):  # noqa: N818 - not an error: what was asked for
    """The run was asked to stop, and stopped with a checkpoint to resume from."""
