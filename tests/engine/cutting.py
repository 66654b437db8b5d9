"""A proxy before a database's unix socket that cuts connections at COMMIT, so that its outcome is unknown."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["Cutter", "cutter"]


class Cutter:
    """Forwards bytes until it sees a COMMIT that is to be lost.

    Args:
        listen: the socket's file to make.
        server: the file of the server's socket.
        fate: asked for each COMMIT: "pass", "arrives" (it is carried out, its answer is lost) or "lost" (it never gets there).
        held: called when one has arrived, before its connection is cut.
    """

    def __init__(
        self, listen: Path, server: str, fate: Callable[[int], str], held: Callable[[], object] = lambda: None
    ) -> None:
        self._server, self._fate, self._held = server, fate, held
        self.commits = 0
        self.cuts = 0
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(listen))
        listen.chmod(0o777)
        self._socket.listen(50)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._ending.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)

    def _accept(self) -> None:
        while not self._ending.is_set():
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, contextlib.suppress(OSError):
            server.connect(self._server)
            while not self._ending.is_set():
                ready, _, _ = select.select([client, server], [], [], 0.5)
                for side in ready:
                    data = side.recv(65536)
                    if not data:
                        return
                    if side is client and data.rstrip(b"\0").endswith(b"COMMIT"):
                        if not self._commit(data, server):
                            return
                        continue
                    (server if side is client else client).sendall(data)

    def _commit(self, data: bytes, server: socket.socket) -> bool:
        """False when the connection is to be cut."""
        with self._lock:
            self.commits += 1
            fate = self._fate(self.commits)
            self.cuts += fate != "pass"
        if fate != "lost":
            server.sendall(data)
        if fate == "arrives":
            server.recv(65536)  # the server has done it when it answers
            self._held()
        return fate == "pass"


@contextlib.contextmanager
def cutter(
    listen: Path, server: str, fate: Callable[[int], str], held: Callable[[], object] = lambda: None
) -> Iterator[Cutter]:
    made = Cutter(listen, server, fate, held)
    try:
        yield made
    finally:
        made.close()
