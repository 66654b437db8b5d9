"""The command, as the tests of the command line run it."""

from tests.cli.conftest import admin

__all__ = ["admin"]
