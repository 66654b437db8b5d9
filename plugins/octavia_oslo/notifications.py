"""Upstream's notifications: `octavia.loadbalancer.{create,update,delete}.end`, for Ceilometer and its like.

Events of the core become oslo.messaging notifications of the same form as upstream's worker sends: priority `info`, a
context with only `project_id`, and the load balancer in provider format as payload. Where they go is said by
[oslo_messaging_notifications] in octavia.conf; upstream's default is nowhere.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import oslo_messaging
from oslo_context import context
from oslo_messaging.notify import notifier

from octavia_core.domain.operation import Event
from octavia_oslo.consumer import prepare

__all__ = ["NAMES", "Notifications"]

log = logging.getLogger("octavia_oslo.notifications")

NAMES: Mapping[str, str] = {
    "create": "octavia.loadbalancer.create.end",
    "update": "octavia.loadbalancer.update.end",
    "delete": "octavia.loadbalancer.delete.end",
}
"""What events call the change of a load balancer itself, and which notification tells of it."""


class Notifications:
    """Sends what octavia.conf asks for. Its connection is made with the first notification."""

    def __init__(self, conf: Any) -> None:
        prepare(conf)
        self._conf = conf
        self._wanted = bool(conf.controller_worker.event_notifications)
        self._lock = threading.Lock()
        self._notifier: Any = None

    def send(self, events: Sequence[Event]) -> None:
        """Send one notification for each event that has one; returns when the broker has them.

        While it is away the library tries again as often as [oslo_messaging_notifications] retry says (for ever), so that
        later events wait; what it gives up is logged by it, and lost.
        """
        if not self._wanted:
            return
        for event in events:
            payload = event.data.get("provider")
            name = NAMES.get(str(event.data.get("change")))
            if name is not None and isinstance(payload, Mapping):
                # a context, not a dict: the library lets nothing of a dict through
                about = context.RequestContext(project_id=payload.get("project_id"), overwrite=False)
                self._sender().info(about, name, dict(payload))

    def _sender(self) -> Any:
        with self._lock:
            if self._notifier is None:
                transport = notifier.get_notification_transport(self._conf)
                host = self._conf.host or socket.gethostname()
                self._notifier = oslo_messaging.Notifier(transport, publisher_id=f"octavia.{host}")
            return self._notifier
