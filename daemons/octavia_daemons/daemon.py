"""What the daemons share: the command line, settings from files, signals, and errors as one sentence."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence

from octavia_core.controller.sources import load_settings
from octavia_core.errors import ConfigurationError, OctaviaError
from octavia_core.settings import Settings

__all__ = ["BAD_USAGE", "CONFIGURATION", "FAILED", "OK", "run"]

OK, FAILED, BAD_USAGE, CONFIGURATION = 0, 1, 2, 5
"""Exit codes, as those of octavia-admin."""


def run(
    name: str,
    about: str,
    serve: Callable[[Settings, threading.Event], None],
    argv: Sequence[str] | None,
    *,
    again: Callable[[Callable[[], Settings]], None] | None = None,
) -> int:
    """Run a daemon until SIGTERM or SIGINT; a second one ends it at once.

    Args:
        name: of the program.
        about: what it does, for --help.
        serve: does the work until the event is set; it gives back what it took.
        argv: the command line; None for the process's own.
        again: called first with what reads the settings anew, for a daemon that does so on SIGHUP.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog=name, description=about)
    parser.add_argument(
        "--config-file", action="append", required=True, metavar="FILE", help="settings; the last one wins"
    )
    parser.add_argument(
        "--state-directory", default="", metavar="DIR", help="for drivers that keep files on this machine"
    )
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    try:
        options = parser.parse_args(argv)
    except SystemExit as ended:
        return int(ended.code or 0)
    logging.basicConfig(
        level=options.log_level, stream=sys.stderr, format="%(asctime)s %(process)d %(levelname)s %(name)s %(message)s"
    )
    stop = threading.Event()

    def end(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        state = os.path.abspath(options.state_directory) if options.state_directory else ""

        def read() -> Settings:
            return load_settings(options.config_file, state_directory=state)

        if again is not None:
            again(read)
        serve(read(), stop)
    except OctaviaError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return CONFIGURATION if isinstance(error, ConfigurationError) else FAILED
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return OK
