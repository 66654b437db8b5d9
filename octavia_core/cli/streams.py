"""Standard output and error as they were given to this process: closed, full, or of an encoding that has not all letters."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator

__all__ = ["Unwritten", "as_they_can", "flush", "silence", "write", "written"]


class Unwritten(Exception):
    """Standard output takes no more: a full disk, most often."""

    def __init__(self, error: OSError) -> None:
        super().__init__(
            f"standard output cannot be written: {error.strerror}; what was asked for is done all the same"
        )


@contextlib.contextmanager
def written() -> Iterator[None]:
    """What is inside prints.

    Raises:
        BrokenPipeError: nobody reads any more.
        Unwritten: it cannot be written.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Unwritten(error) from error


def write(text: str) -> None:
    """Print a line; errors as of `written`."""
    with written():
        sys.stdout.write(text + "\n")


def flush() -> None:
    """Send what is printed on its way; errors as of `written`."""
    with written():
        sys.stdout.flush()


def as_they_can() -> None:
    """Have a stream that is closed go nowhere, and one that cannot encode a letter show its number instead."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (until this process ends)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def silence() -> None:
    """Nobody can be told any more on standard output: let the interpreter's last flush go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, sys.stdout.fileno())
    except (OSError, ValueError):  # not a file at all: then nothing is flushed to one
        pass
    finally:
        os.close(nowhere)
