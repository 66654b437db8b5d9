"""From a state directory (or settings) to everything a controller consists of, before any thread is started."""

from __future__ import annotations

import socket
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs

from octavia_core.controller.health import bind_receiver
from octavia_core.controller.state import StateDirectory, prepare_state
from octavia_core.controller.wiring import build_world, with_receiver
from octavia_core.controller.worker import Worker
from octavia_core.db.storage import SqlStorage
from octavia_core.errors import ConfigurationError
from octavia_core.flows.runner import Runner
from octavia_core.flows.world import World
from octavia_core.hooks.plugins import Plugins
from octavia_core.settings import Settings, local_defaults

__all__ = ["Started", "start"]


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
        self.storage.close()
        if self.state is not None:
            self.state.release()


def start(
    state_directory: str | Path | None, *, settings: Settings | None, plugins: Mapping[str, object] | None, run: bool
) -> Started:
    """Build the parts; see `Controller.open` for the arguments and errors."""
    if (state_directory is None) == (settings is None):
        raise ConfigurationError("a controller needs either a state directory or settings")
    undo: list[Callable[[], None]] = []
    try:
        state: StateDirectory | None = None
        if settings is None:
            state = prepare_state(Path(str(state_directory)), lock=run)
            undo.append(state.release)
            settings = local_settings(state)
        receiver: socket.socket | None = None
        if run:
            receiver, settings = _receive(settings, state)
            undo.append(receiver.close)
        elif state is not None and state.heartbeat_port:
            settings = with_receiver(settings, state.heartbeat_port)
        storage = SqlStorage.prepare(settings) if state is not None else SqlStorage.open(settings)
        undo.append(storage.close)
        found = Plugins(plugins)
        world = build_world(settings, found)
    except BaseException:
        for step in reversed(undo):
            step()
        raise
    worker = Worker(Runner(storage, world), threads=settings.controller_worker.workers)
    return Started(settings, storage, world, found, worker, receiver, state)


def local_settings(state: StateDirectory) -> Settings:
    """Defaults of one machine, then what the state directory made for itself, then what its octavia.toml says."""
    directory = str(state.path)
    return Settings.load(
        ("local defaults", local_defaults(directory)),
        *state.sources(),
        state_directory=directory,
    )


def _receive(settings: Settings, state: StateDirectory | None) -> tuple[socket.socket, Settings]:
    """Bind where amphorae of an earlier start send to, or anywhere free, and remember it."""
    health = settings.health_manager
    if health.bind_port == 0 and state is not None and state.heartbeat_port:
        try:
            wanted = attrs.evolve(health, bind_port=state.heartbeat_port)
            receiver = bind_receiver(attrs.evolve(settings, health_manager=wanted))
            return receiver, with_receiver(settings, state.heartbeat_port)
        except ConfigurationError:
            pass  # taken meanwhile: another one, and the amphorae are told
    receiver = bind_receiver(settings)
    port = int(receiver.getsockname()[1])
    if state is not None:
        state.remember_heartbeat_port(port)
    return receiver, with_receiver(settings, port)
