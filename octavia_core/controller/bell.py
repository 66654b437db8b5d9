"""A bell between processes of one machine: a client rings it after storing a wish, and the controller looks at once.

It is a FIFO in the state directory. Nobody depends on it: without a ring the controller looks at its queue every poll
interval, so a bell that cannot be made or rung costs a moment and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Callable

__all__ = ["Bell", "ring"]

_NAME = "bell"


def ring(state_directory: str) -> None:
    """Tell the controller of a state directory, if one listens, that something was stored."""
    with contextlib.suppress(OSError):  # nobody listens, or there is no bell
        fd = os.open(f"{state_directory}/{_NAME}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if stat.S_ISFIFO(os.fstat(fd).st_mode):
                os.write(fd, b"!")
        finally:
            os.close(fd)


class Bell:
    """Listens, on a thread of its own, from `start` to `stop`."""

    def __init__(self, state_directory: str, on_ring: Callable[[], None]) -> None:
        self._path, self._on_ring = f"{state_directory}/{_NAME}", on_ring
        self._stopping = False
        self._fd = -1
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Make the FIFO where it is missing, and listen."""
        with contextlib.suppress(OSError):  # see above: a full disk or an odd file system
            with contextlib.suppress(FileExistsError):
                os.mkfifo(self._path, 0o600)
            # open for writing too, so that reading waits for the next client instead of ending with the last one
            self._fd = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            if not stat.S_ISFIFO(os.fstat(self._fd).st_mode):
                os.close(self._fd)
                self._fd = -1
                return
            self._thread = threading.Thread(target=self._loop, name="octavia-bell", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End it. Twice is harmless."""
        self._stopping = True
        if self._thread is None:
            return
        os.write(self._fd, b".")
        self._thread.join(5)
        self._thread = None
        os.close(self._fd)

    def _loop(self) -> None:
        while os.read(self._fd, 4096) and not self._stopping:
            self._on_ring()
