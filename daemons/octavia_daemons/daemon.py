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

__all__ = ["BAD_USAGE", "CONFIGURATION", "FAILED", "OK", "Over", "patiently", "run"]

T = TypeVar("T")

log = logging.getLogger("octavia_daemons")

OK, FAILED, BAD_USAGE, CONFIGURATION = 0, 1, 2, 5
"""Exit codes, as those of octavia-admin."""

PAUSE = 1.0
"""Seconds between two attempts at a beginning."""
REMIND = 60.0
"""Seconds after which the same trouble is said again."""
NOTICED_IN = 1.0
"""Seconds that the main thread sleeps at most."""
ENDS = (signal.SIGTERM, signal.SIGINT)
"""Signals that end a daemon."""
NOT_ANEW = "the settings are not read anew, it goes on with those it has: %s"


class Over(threading.Event):
    """Set when a daemon is to stop what it does.

    Attributes:
        again: whether it is to begin anew with other settings then.
    """

    again = False

    def wait(self, timeout: float | None = None) -> bool:
        """As of every event, but it notices signals: one that comes between Python's last look for signals and the moment in which
        the main thread falls asleep is seen when that wakes up, so it never sleeps for long.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            left = NOTICED_IN if until is None else min(NOTICED_IN, until - time.monotonic())
            if super().wait(max(0.0, left)):
                return True
            if until is not None and time.monotonic() >= until:
                return False


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
    serve: Callable[[Settings, Over], None],
    argv: Sequence[str] | None,
    *,
    again: Callable[[Callable[[], Settings]], None] | None = None,
    tell: Callable[[str], bool] | None = None,
    check: Callable[[Settings, Settings], None] | None = None,
) -> int:
    """Run a daemon until SIGTERM or SIGINT; a second one ends it at once. SIGHUP has it begin anew, with settings read again.

    Settings that are wrong then, or with which it turns out that it cannot begin, end nothing: it says so, and goes on with
    those that it had. When these cannot be had any more either, that is an end as at a start.

    Args:
        name: of the program.
        about: what it does, for --help.
        serve: does the work until the event is set; it gives back what it took.
        argv: the command line; None for the process's own.
        again: called first with what reads the settings anew, for a daemon that sees to SIGHUP itself.
        tell: given the sentence of wrong settings; True when it has told somebody who says it.
        check: given settings that were read again, and those in use, while it serves; raises ConfigurationError when it
            could not begin with them, so that it does not end for nothing.

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
    logging.getLogger("psycopg").setLevel(
        logging.ERROR
    )  # each error that it warns of is raised, too, and told in our words
    stop = Over()

    def read() -> Settings:
        files = settings_files(options.config_file, options.config_dir)
        return load_settings(files, state_directory=state)

    state = os.path.abspath(options.state_directory) if options.state_directory else ""
    lives = _Lives(serve, read, check)
    handlers: dict[int, Callable[[], None]] = dict.fromkeys(ENDS, stop.set)
    if again is None:
        handlers = {**dict.fromkeys(ENDS, lives.end), signal.SIGHUP: lives.read_anew}
    try:
        with on_signals(handlers, once=ENDS):
            if again is None:
                lives.run()
            else:
                again(read)
                serve(read(), stop)
    except OctaviaError as error:
        wrong = isinstance(error, ConfigurationError)
        if not (wrong and tell is not None and tell(str(error))):
            print(f"{name}: {error}", file=sys.stderr)
        return CONFIGURATION if wrong else FAILED
    return OK


class _Lives:
    """What SIGHUP begins anew: one life after the other, each with the settings that were read last and are possible.

    Args:
        serve: one life, to its end or until the event is set.
        read: the settings, as the files are now.
        check: see `run`.
    """

    def __init__(
        self,
        serve: Callable[[Settings, Over], None],
        read: Callable[[], Settings],
        check: Callable[[Settings, Settings], None] | None,
    ) -> None:
        self._serve, self._read, self._check = serve, read, check
        self._lock = threading.Lock()
        self._ended = False
        self._now: Settings | None = None
        self._next: Settings | None = None
        self._over = Over()

    def end(self) -> None:
        """No further life."""
        with self._lock:
            self._ended = True
            self._over.again = False
            self._over.set()

    def read_anew(self) -> None:
        """Another life, if the files are as they should be. Until that is known the one that is goes on."""
        try:
            settings = self._read()
            if self._check is not None and self._now is not None:
                self._check(settings, self._now)
        except OctaviaError as error:
            log.error(NOT_ANEW, error)
            return
        except Exception:  # a mistake of ours, or of a plugin, must not end the thread that hears of SIGTERM
            log.exception("the settings are not read anew, it goes on with those it has")
            return
        log.info("settings are read anew")
        with self._lock:
            self._next = settings
            self._over.again = not self._ended
            self._over.set()

    def run(self) -> None:
        """To the end of the last life.

        Raises:
            OctaviaError: it cannot begin, with no settings that it had.
        """
        worked: Settings | None = None
        settings = self._first()
        while (begun := self._begin(settings)) is not None:
            settings, over = begun
            try:
                self._serve(settings, over)
            except ConfigurationError as error:
                if worked is None or settings is worked:
                    raise
                log.error(NOT_ANEW, error)
                settings = worked
                continue
            worked = settings
            with self._lock:
                if self._next is None:
                    return  # told to end, or at the end by itself

    def _first(self) -> Settings:
        """As the files are; or as they were a moment ago, when SIGHUP came before the first life and they are no good any more."""
        try:
            return self._read()
        except OctaviaError:
            with self._lock:
                if self._next is None:
                    raise
                return self._next

    def _begin(self, settings: Settings) -> tuple[Settings, Over] | None:
        with self._lock:
            if self._ended:
                return None
            chosen = self._next or settings
            self._now, self._next, self._over = chosen, None, Over()
            return chosen, self._over
