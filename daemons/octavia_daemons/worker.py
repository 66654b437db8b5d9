"""octavia-core-worker: claims operations from the database and carries them out, in several processes.

The process that is started supervises; it polls the database for all of them. SIGTERM ends it when what runs is finished or
parked, SIGHUP has the settings read anew: by new processes, while the old ones finish what they do.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence

from octavia_core.controller.knock import Door
from octavia_core.controller.outbox import Outbox
from octavia_core.controller.signals import on_signals
from octavia_core.controller.start import promptly, start_worker
from octavia_core.controller.supervisor import Program, Supervisor, follow_input, report_ready, report_refusal
from octavia_core.controller.worker import Worker
from octavia_core.db.storage import SqlStorage
from octavia_core.errors import ConfigurationError
from octavia_core.settings import Settings
from octavia_daemons import daemon

__all__ = ["child", "main", "serve"]

log = logging.getLogger("octavia_daemons.worker")

NAME, ABOUT = "octavia-core-worker", "Carry out operations from the database."
LEAVING = 10.0
"""Seconds beyond their grace after which processes that do not end are killed."""
CHILD = "OCTAVIA_WORKER_NUMBER"
"""Environment variable that makes this program one of the processes of a supervisor: which one."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the worker; see `daemon.run`."""
    number = os.environ.get(CHILD)
    if number is not None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the supervisor sees to it
        return daemon.run(
            NAME,
            ABOUT,
            lambda settings, stop: child(settings, stop, chores=number == "0"),
            argv,
            tell=report_refusal,
        )
    words = list(sys.argv[1:] if argv is None else argv)
    reload = threading.Event()
    reader: list[Callable[[], Settings]] = []
    with on_signals({signal.SIGHUP: reload.set}):
        return daemon.run(
            NAME,
            ABOUT,
            lambda settings, stop: serve(settings, stop, words, reload, reader[0]),
            argv,
            again=reader.append,
        )


def serve(
    settings: Settings,
    stop: threading.Event,
    words: Sequence[str],
    reload: threading.Event,
    read: Callable[[], Settings],
) -> None:
    """Supervise worker processes until `stop`; `words` is the command line that they get, too."""
    # its questions are small: it must see to its children again soon, whatever the database does
    storage = daemon.patiently(lambda: SqlStorage.open(promptly(settings)), stop)
    if storage is None:
        return

    def look() -> float | None:
        if reload.is_set():
            reload.clear()
            _reload(supervisor, read)
        return storage.next_due()

    door = Door(settings)
    supervisor = Supervisor(
        Program(
            command=[sys.executable, "-m", "octavia_daemons.worker", *words],
            environment=lambda number: os.environ | {CHILD: str(number)},
            grace=settings.engine.grace + LEAVING,
        ),
        count=settings.controller_worker.workers,
        look=look,
        poll=settings.engine.poll_interval,
        door=door,
    )
    try:
        supervisor.run(stop)
    finally:
        door.close()
        storage.close()


def _reload(supervisor: Supervisor, read: Callable[[], Settings]) -> None:
    try:
        settings = read()
    except ConfigurationError as error:
        log.error("the settings are not read anew, the workers go on with those they have: %s", error)
        return
    log.info("settings are read anew")
    supervisor.reload(settings.controller_worker.workers, settings.engine.poll_interval)


def child(settings: Settings, stop: threading.Event, *, chores: bool) -> None:
    """Be one of the processes, until told to end. One has the chores, and delivers events; the others are its deputies."""
    workers: list[Worker] = []

    def nudge() -> None:
        for worker in workers:
            worker.nudge()

    follow_input(nudge, stop)  # from the beginning: it ends with its supervisor, also while it waits for the database
    started = daemon.patiently(lambda: start_worker(settings, chores=chores), stop)
    if started is None:
        return
    try:
        outbox = Outbox(
            started.storage,
            started.plugins.event_listeners(),
            timeout=settings.engine.event_timeout,
            pause=settings.engine.poll_interval,
            deputy=not chores,
        )
        started.worker.on_ended = lambda *_: outbox.nudge()
        workers.append(started.worker)
        started.worker.start()
        daemon.patiently(outbox.start, stop)
        report_ready()
        try:
            stop.wait()
        finally:
            started.worker.stop(settings.engine.grace)
            outbox.stop()
    finally:
        started.release()


if __name__ == "__main__":
    sys.exit(main())
