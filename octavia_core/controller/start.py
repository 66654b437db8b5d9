"""From a state directory (or settings) to everything a controller consists of, before any thread is started."""

from __future__ import annotations

import logging
import os
import socket
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs

from octavia_core.certs.authority import create_authorities
from octavia_core.controller import state as core_sources
from octavia_core.controller.health import bind_receiver
from octavia_core.controller.state import ControllerLock, StateDirectory, prepare_state
from octavia_core.controller.wiring import build_world, with_receiver
from octavia_core.controller.worker import Worker
from octavia_core.db.storage import SqlStorage, prepare
from octavia_core.errors import ConfigurationError, StateDirectoryError
from octavia_core.flows.runner import Runner
from octavia_core.flows.world import World
from octavia_core.hooks.plugins import Plugins
from octavia_core.settings import OF_A_PLUGIN, Settings

__all__ = ["Started", "promptly", "start", "start_worker"]

log = logging.getLogger("octavia_core.controller")

ANSWER = 10.0
"""Seconds of silence of a database server that somebody who waits for an answer bears; those who work have more patience."""


def promptly(settings: Settings) -> Settings:
    """The same with so little patience: for who looks, rather than works."""
    database = settings.database
    return attrs.evolve(
        settings, database=attrs.evolve(database, answer_timeout=min(database.answer_timeout or ANSWER, ANSWER))
    )


@attrs.define(eq=False)
class Started:
    """The parts. `release` gives back what was taken: database connections, the heartbeat socket, the lock."""

    settings: Settings
    storage: SqlStorage
    world: World
    plugins: Plugins
    worker: Worker
    receiver: socket.socket | None
    state: StateDirectory | None
    lock: ControllerLock | None
    moved: bool = False
    """Heartbeats come to another port than at the last start: the agents have to be told."""
    _ended: OrderedDict[str, None] = attrs.field(factory=OrderedDict)

    def note_ended(self, operation_id: str) -> None:
        """Remember for a while that an operation ended here, so that nobody who asks late sleeps in vain."""
        self._ended[operation_id] = None
        while len(self._ended) > 1000:
            self._ended.popitem(last=False)

    def recently_ended(self, operation_id: str) -> bool:
        """Whether it ended here a moment ago."""
        return operation_id in self._ended

    def release(self) -> None:
        """Twice is harmless."""
        if self.receiver is not None:
            self.receiver.close()
        self.world.amphora.close()
        self.storage.close()
        if self.lock is not None:
            self.lock.close()


def start_worker(settings: Settings, *, chores: bool) -> Started:
    """The parts of one of several worker processes: it is nudged by a supervisor, and hears no heartbeats."""
    started = start(None, settings=settings, plugins=None, run=False, whole=True)
    runner = Runner(started.storage, started.world)
    started.worker = Worker(runner, threads=settings.engine.threads, led=True, chores=chores)
    return started


def start(
    state_directory: str | Path | None,
    *,
    settings: Settings | None,
    plugins: Mapping[str, object] | None,
    run: bool,
    whole: bool = False,
) -> Started:
    """Build the parts; see `Controller.open` for the arguments and errors.

    A client of a cloud (neither `run` nor `whole`) has its drivers made when they are used: most of what it asks needs none.
    """
    if (state_directory is None) == (settings is None):
        raise ConfigurationError("a controller needs either a state directory or settings")
    undo: list[Callable[[], None]] = []
    try:
        state: StateDirectory | None = None
        lock: ControllerLock | None = None
        if settings is None:
            state = prepare_state(str(state_directory))
            if run:
                lock = state.lock()
                undo.append(lock.close)
            settings = state.settings()
            _check_complete(state)
            create_authorities(state.authority, passphrase=settings.certificates.ca_private_key_passphrase)
        if not run and not whole:
            settings = promptly(settings)
        found = Plugins({"core": core_sources, **(plugins or {})})
        settings = _where_amphorae_reach(settings, found)
        receiver: socket.socket | None = None
        moved = False
        if run:
            receiver, settings, moved = _receive(settings, state)
            undo.append(receiver.close)
        elif state is not None and (port := _known_port(state)):
            settings = with_receiver(settings, port)
        if state is not None:
            prepare(settings)
        storage = SqlStorage.open(settings)
        undo.append(storage.close)
        found.hook.octavia_configured(settings=settings)
        world = build_world(settings, found, on_use=state is None and not run and not whole)
    except BaseException:  # what was opened is closed, Ctrl-C included
        for step in reversed(undo):
            step()
        raise
    worker = Worker(Runner(storage, world), threads=settings.controller_worker.workers)
    return Started(settings, storage, world, found, worker, receiver, state, lock, moved)


def _check_complete(state: StateDirectory) -> None:
    """Amphorae that serve are proof of a database and authorities; new ones would disown them.

    Raises:
        StateDirectoryError: one of these is gone.
    """
    amphorae = Path(state.path, "amphorae")
    if not amphorae.is_dir() or not any(amphorae.iterdir()):
        return
    database = Path(state.path, "octavia.db")
    for what, there in (
        ("octavia.db", database.exists() and database.stat().st_size > 0),
        ("authority", Path(state.authority).is_dir()),
    ):
        if not there:
            raise StateDirectoryError(
                f"{state.path}/{what} is gone while amphorae of this state directory exist; restore it from a backup, or end"
                f" the processes named in {amphorae}/*/agent.json, remove {amphorae}, and begin anew"
            )


def _where_amphorae_reach(settings: Settings, plugins: Plugins) -> Settings:
    """With the address that a plugin has its amphorae send heartbeats to, unless the settings name one."""
    if settings.origin("health_manager.bind_ip") != "default":
        return settings
    address = plugins.hook.octavia_heartbeat_address(settings=settings)
    if address is None:
        return settings
    return attrs.evolve(
        settings,
        health_manager=attrs.evolve(settings.health_manager, bind_ip=address),
        origins={**settings.origins, "health_manager.bind_ip": OF_A_PLUGIN},
    )


def _receive(settings: Settings, state: StateDirectory | None) -> tuple[socket.socket, Settings, bool]:
    """Bind where amphorae of an earlier start send to, or anywhere free, and remember it; True when they must be told."""
    health = settings.health_manager
    known = _known_port(state) if state is not None and health.bind_port == 0 else None
    if known:
        try:
            wanted = attrs.evolve(settings, health_manager=attrs.evolve(health, bind_port=known))
            return bind_receiver(wanted), with_receiver(settings, known), False
        except ConfigurationError:
            log.info("heartbeat port %s is taken; another one is used, and the amphorae are told", known)
    receiver = bind_receiver(settings)
    port = int(receiver.getsockname()[1])
    if state is not None:
        fd = os.open(_port_file(state), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(f"{port}\n")
    return receiver, with_receiver(settings, port), known is not None


def _port_file(state: StateDirectory) -> Path:
    return Path(state.path, "heartbeat.port")


def _known_port(state: StateDirectory) -> int | None:
    try:
        text = _port_file(state).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    return int(text) if text.isdigit() and 0 < int(text) < 65536 else None
