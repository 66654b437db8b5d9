"""The calls about UDP and SCTP listeners (agent API reference, 4.9 and 4.10). What serves them is loaded with the first one."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from octavia_local.agent.balancer import Observation
from octavia_local.agent.wire import Refusal, Request, Response, answer, md5

if TYPE_CHECKING:
    from octavia_local.agent.datagrams import Datagrams

__all__ = ["UdpCalls"]

_UNKNOWN = "No UDP listener with UUID: {}"


class UdpCalls:
    """Answers requests about them. One request at a time; looks may come beside.

    Args:
        folder: where their files are kept, on this machine.
        make: makes what serves them.
    """

    def __init__(self, folder: str, make: Callable[[], Datagrams]) -> None:
        self._folder, self._make = folder, make
        self._made: Datagrams | None = None
        self._making = threading.Lock()

    # -- requests --------------------------------------------------------------------------------------------------
    def upload(self, request: Request, amphora: str, id: str) -> Response:
        """PUT /listeners/{amphora_id}/{listener_id}/udp_listener. Upstream takes anything; here it is read at once."""
        self._all().upload(id, request.body)
        return answer(200, {"message": "OK"}, etag=md5(request.body))

    def download(self, _: Request, id: str) -> Response:
        """GET /listeners/{listener_id}/udp_listener."""
        if not self.knows(id):
            raise Refusal(404, "UDP Listener Not Found", _UNKNOWN.format(id))
        return Response(200, self._all().received(id), "text/plain; charset=UTF-8")

    def act(self, id: str, word: str) -> Response:
        """PUT /loadbalancer/{listener_id}/{start,stop,reload}; reload is a restart, as upstream's."""
        all_of_them = self._all()
        if word == "stop":
            all_of_them.stop(id)
        else:
            try:
                all_of_them.start(id)
            except Refusal as refusal:
                raise Refusal(500, f"Failed to {word} keepalivedlvs listener {id}", refusal.details) from refusal
        done = {"start": "started", "stop": "stopped", "reload": "restarted"}[word]
        return answer(202, {"message": "OK", "details": f"keepalivedlvs listener {id} {done}"})

    def delete(self, id: str) -> None:
        """DELETE /listeners/{listener_id}; absent is success."""
        if self.knows(id) or self._made is not None:
            self._all().delete(id)

    def restore(self) -> None:
        """Serve again what an earlier agent on this root served."""
        if self.any:
            self._all().restore()

    # -- looks -----------------------------------------------------------------------------------------------------
    def knows(self, id: str) -> bool:
        """Whether such a listener was uploaded."""
        return self.any and self._all().knows(id)

    @property
    def any(self) -> bool:
        """Whether any was uploaded."""
        return self._made is not None or os.path.isdir(self._folder)

    def statuses(self) -> list[tuple[str, str]]:
        """(id, status) of each, as `GET /listeners` says them."""
        return self._all().statuses() if self.any else []

    @property
    def processes(self) -> int:
        """How many processes serve them."""
        return self._made.processes if self._made is not None else 0

    @property
    def serving(self) -> bool:
        """Whether any is served."""
        return self._made is not None and self._made.serving

    def observe(self) -> list[Observation]:
        """What heartbeats say of them."""
        return self._made.observe() if self._made is not None else []

    def known(self) -> list[Observation]:
        """The listeners alone, as they were seen last. Asks nobody."""
        return self._made.known() if self._made is not None else []

    @property
    def sockets(self) -> list[socket.socket]:
        """Those that datagrams come in by."""
        return self._made.sockets if self._made is not None else []

    def _all(self) -> Datagrams:
        with self._making:
            if self._made is None:
                self._made = self._make()
            return self._made
