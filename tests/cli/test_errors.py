"""The error wrapper of commands."""

import importlib

import pytest

from kdbench.cli.errors import FAILED, USAGE, command
from kdbench.cli.main import COMMANDS
from kdbench.core.errors import RunError


@pytest.mark.parametrize(
    ("error", "code"), [(ValueError("a mistake"), USAGE), (RunError("a failure"), FAILED)]
)
def test_expected_errors_become_one_line_and_an_exit_code(error, code, capsys):
    @command
    def main(arguments):
        raise error

    assert main([]) == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"kdbench: {error}\n")


def test_other_errors_are_not_hidden():
    @command
    def main(arguments):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        main([])


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"doctor", "list", "report"}))
def test_commands_use_the_wrapper(name):
    """doctor and list raise no expected errors; report prints published numbers before its error."""
    assert hasattr(importlib.import_module(COMMANDS[name]).main, "__wrapped__")
