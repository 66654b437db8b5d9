"""What the daemons share: the command line, settings from files, signals, and errors as one sentence."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from octavia_core.controller.signals import on_signals
from octavia_core.controller.sources import load_settings, settings_files
from octavia_core.errors import ConfigurationError, OctaviaError, TransientError
from octavia_core.settings import Settings

__all__ = ["BAD_USAGE", "CONFIGURATION", "FAILED", "OK", "patiently", "run"]

T = TypeVar("T")

log = logging.getLogger("octavia_daemons")

OK, FAILED, BAD_USAGE, CONFIGURATION = 0, 1, 2, 5
"""Exit codes, as those of octavia-admin."""

PAUSE = 1.0
"""Seconds between two attempts at a beginning."""
REMIND = 60.0
"""Seconds after which the same trouble is said again."""


def patiently(begin: Callable[[], T], stop: threading.Event) -> T | None:
    """What `begin` gives as soon as it does not fail transiently, say because a database is away; None when told to stop.

    What it waits for is said once a minute, and at once when it changes. Every other error ends it.
    """
    said, at = "", 0.0
    while not stop.is_set():
        try:
            return begin()
        except TransientError as error:
            now = time.monotonic()
            if str(error) != said or now - at >= REMIND:
                log.warning("it cannot begin yet, and tries again every %g s: %s", PAUSE, error)
                said, at = str(error), now
            stop.wait(PAUSE)
    return None


def run(
    name: str,
    about: str,
    serve: Callable[[Settings, threading.Event], None],
    argv: Sequence[str] | None,
    *,
    again: Callable[[Callable[[], Settings]], None] | None = None,
    tell: Callable[[str], bool] | None = None,
) -> int:
    """Run a daemon until SIGTERM or SIGINT; a second one ends it at once. SIGHUP has it begin anew, with settings read again.

    Args:
        name: of the program.
        about: what it does, for --help.
        serve: does the work until the event is set; it gives back what it took.
        argv: the command line; None for the process's own.
        again: called first with what reads the settings anew, for a daemon that sees to SIGHUP itself.
        tell: given the sentence of wrong settings; True when it has told somebody who says it.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog=name, description=about)
    parser.add_argument(
        "--config-file", action="append", default=[], metavar="FILE", help="settings; the last one wins"
    )
    parser.add_argument(
        "--config-dir", action="append", default=[], metavar="DIR", help="settings: every *.conf in it, after the files"
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
    stop, reload = threading.Event(), threading.Event()
    current = [stop if again else threading.Event()]  # what ends the work that is done now

    def end() -> None:
        stop.set()
        current[0].set()

    def read_anew() -> None:
        reload.set()
        current[0].set()

    handlers: dict[int, Callable[[], None]] = {signal.SIGTERM: end, signal.SIGINT: end}
    if again is None:
        handlers[signal.SIGHUP] = read_anew
    try:
        with on_signals(handlers, once=(signal.SIGTERM, signal.SIGINT)):
            state = os.path.abspath(options.state_directory) if options.state_directory else ""

            def read() -> Settings:
                files = settings_files(options.config_file, options.config_dir)
                return load_settings(files, state_directory=state)

            if again is not None:
                again(read)
                serve(read(), stop)
            else:
                _serve(serve, read, stop, reload, current)
    except OctaviaError as error:
        wrong = isinstance(error, ConfigurationError)
        if not (wrong and tell is not None and tell(str(error))):
            print(f"{name}: {error}", file=sys.stderr)
        return CONFIGURATION if wrong else FAILED
    return OK


def _serve(
    serve: Callable[[Settings, threading.Event], None],
    read: Callable[[], Settings],
    stop: threading.Event,
    reload: threading.Event,
    current: list[threading.Event],
) -> None:
    """Serve until `stop`; at each `reload` begin anew with the settings read again, if they are as they should be."""
    settings = read()
    while True:
        current[0] = threading.Event()
        if reload.is_set():
            reload.clear()
            try:
                settings = read()
                log.info("settings are read anew")
            except OctaviaError as error:
                log.error("the settings are not read anew, it goes on with those it has: %s", error)
        if stop.is_set():
            return
        serve(settings, current[0])
        if not reload.is_set():
            return  # told to end, or at the end by itself
