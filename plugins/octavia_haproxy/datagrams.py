"""UDP and SCTP listeners: each has a file of keepalived's and a service of its own on the amphora, beside HAProxy.

Two habits of upstream's agent shape this. It accepts any file and most starts (202), whatever becomes of them: so after a
start it is asked whether the service runs. And in a pair a service that does not run takes the VIP away from all
listeners: so one that cannot be served is removed again, and said.

As with HAProxy's configuration the amphora keeps a note of ours, the MD5 of the file that was last loaded, beside its
certificates: content that runs already is not sent again, and a controller that died before the reload sends it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping

import attrs

from octavia_core.domain.secret import Secret
from octavia_core.domain.tree import Listener, LoadBalancer
from octavia_core.errors import AmphoraRefused, TransientError
from octavia_core.ports.amphora import Delivery
from octavia_core.settings import Settings
from octavia_haproxy.client import APPLY, AgentClient
from octavia_haproxy.render.lvs import configure_lvs, lvs_listeners, out_of_reach
from octavia_haproxy.render.model import alive

__all__ = ["Delivered", "deliver", "held_listeners", "note_of"]

_UDP = "UDP"
"""What upstream's agent calls SCTP listeners, too."""
_SERVES, _ABSENT = "ACTIVE", ""
_LOOKS = (0.0, 0.5, 1.0, 2.0)
"""Seconds before each look at a service that was just started for the first time."""
_NOT_OURS_TO_TELL, _FAILED = (401, 403), 500
_NO_IP_VS = "keepalived does not stay there (the agent says {}); its kernel may lack ip_vs"


@attrs.frozen(kw_only=True)
class Delivered:
    """What became of them.

    Attributes:
        changed: something was sent or removed.
        digests: MD5 of each file that is served, in the order of their ids.
        refused: listener -> why the amphora does not serve it.
    """

    changed: bool = False
    digests: tuple[str, ...] = ()
    refused: Mapping[str, str] = attrs.field(factory=dict)


def note_of(listener_id: str) -> str:
    """The file of ours for a listener. (The agent takes files of that ending only.)"""
    return f"octavia-udp-{listener_id}.pem"


def deliver(agent: AgentClient, delivery: Delivery, settings: Settings, *, there: int | None = None) -> Delivered:
    """Make the amphora serve these listeners and no others of their kind.

    Args:
        agent: of the amphora.
        delivery: what is wanted.
        settings: for rendering.
        there: how many it has now; None is asked for. Where there is none and none is wanted, nothing is done.

    Raises:
        AmphoraRefused: it refuses the change of a listener that it serves.
        PermanentError: a file cannot be written.
        TransientError: somebody else wrote another file meanwhile.
    """
    lb = delivery.load_balancer
    listeners = lvs_listeners(lb)
    # upstream's agent takes it for any other comment, and would restart keepalived for it
    filters = any(each.allowed_cidrs for each in listeners) and APPLY in agent.about().offers
    wanted = {each.id: (each, configure_lvs(lb, each, settings, filters=filters)) for each in listeners}
    if there == 0 and not wanted:
        return Delivered()
    held = held_listeners(agent, needed=bool(wanted))
    changed = False
    for id in sorted(set(held) - set(wanted)):
        _remove(agent, lb.id, id)
        changed = True
    digests, refused = [], {}
    for id, (listener, text) in sorted(wanted.items()):
        one = _One(agent, lb, listener, text)
        before = held.get(id, _ABSENT)
        try:
            _require_reach(lb, listener)
            changed |= one.bring(before)
            digests.append(_md5(text))
        except AmphoraRefused as error:
            if before == _SERVES or error.status in _NOT_OURS_TO_TELL:
                raise  # what it serves serves on; the wish fails
            _remove(agent, lb.id, id)
            refused[id] = error.details or str(error)
    return Delivered(changed=changed, digests=tuple(digests), refused=refused)


def held_listeners(agent: AgentClient, *, needed: bool = True) -> dict[str, str]:
    """Id -> status of each UDP or SCTP listener that the amphora knows.

    Args:
        agent: who is asked.
        needed: whether it matters that the agent cannot tell; otherwise it is taken for none.
    """
    try:
        return {each.uuid: each.status for each in agent.listeners() if each.type == _UDP and each.uuid}
    except AmphoraRefused as error:
        if needed or error.status in (0, *_NOT_OURS_TO_TELL):
            raise
        return {}


@attrs.frozen
class _One:
    """One listener on one amphora."""

    agent: AgentClient
    lb: LoadBalancer
    listener: Listener
    text: str

    def bring(self, before: str) -> bool:
        """Make it so; False when it was so already.

        Raises:
            AmphoraRefused: it cannot be served there.
            TransientError: another file is there than was sent.
        """
        agent, id, note = self.agent, self.listener.id, note_of(self.listener.id)
        stored = agent.udp_listener(id) if before != _ABSENT else None
        loaded = agent.certificate_md5(self.lb.id, note) if stored is not None else None
        as_it_should = before == _SERVES or (before != _ABSENT and not self._is_to_serve)
        if stored == self.text and loaded == _md5(_md5(self.text)) and as_it_should:
            return False
        if loaded is not None:
            agent.delete_certificate(self.lb.id, note)
        if stored != self.text:
            agent.upload_udp_listener(id, self.text)
        self._start()
        if self._is_to_serve:
            self._see_it_serve(first=before != _SERVES)
        if agent.udp_listener(id) != self.text:
            raise TransientError(
                f"amphora {agent.at.amphora_id} holds another configuration of listener {id} than was just sent"
            )
        agent.upload_certificate(self.lb.id, note, Secret(_md5(self.text)))
        return True

    def _start(self) -> None:
        """An agent that notices at once that keepalived ends says so itself, in words that explain nothing."""
        try:
            self.agent.reload(self.listener.id)
        except AmphoraRefused as error:
            if error.status != _FAILED or APPLY in self.agent.about().offers:
                raise
            details = _NO_IP_VS.format(error.details or error)
            raise AmphoraRefused(str(error), status=error.status, details=details) from error

    @property
    def _is_to_serve(self) -> bool:
        """Without a pool, or while it is disabled, there is nothing to serve, and no service is fine."""
        pool = self.lb.pool(self.listener.default_pool_id)
        return self.listener.enabled and self.lb.enabled and pool is not None and alive(pool)

    def _see_it_serve(self, *, first: bool) -> None:
        """A service that was never seen to run may be about to end: it has to be there twice, unless our own agent
        says so, which knows.
        """
        seen, looks = "", 0
        for pause in _LOOKS:
            time.sleep(pause)
            seen = held_listeners(self.agent).get(self.listener.id, "it has none")
            looks = looks + 1 if seen == _SERVES else 0
            if looks > 1 or (looks and not first) or (looks and APPLY in self.agent.about().offers):
                return
        raise AmphoraRefused(
            f"amphora {self.agent.at.amphora_id} does not serve listener {self.listener.id}: {_NO_IP_VS.format(seen)}",
            status=_FAILED,
            details=_NO_IP_VS.format(seen),
        )


def _require_reach(lb: LoadBalancer, listener: Listener) -> None:
    """Refuse a listener that none of its members can serve; one that some of them serve is served by these.

    Raises:
        AmphoraRefused: all its members are of an address family that no VIP has.
    """
    lost = out_of_reach(lb, listener)
    pool = lb.pool(listener.default_pool_id)
    if lost and pool is not None and len(lost) == sum(alive(one) and one.enabled for one in pool.members):
        why = (
            f"no member can be reached: {listener.protocol} goes to members of the VIP's address family only, and "
            f"{lost[0].address} is IPv{6 if ':' in lost[0].address else 4}; give the pool members of the other family"
        )
        raise AmphoraRefused(f"listener {listener.id}: {why}", status=400, details=why)


def _remove(agent: AgentClient, load_balancer_id: str, id: str) -> None:
    agent.remove(id)
    agent.delete_certificate(load_balancer_id, note_of(id))


def _md5(text: str) -> str:
    """As the agent reports files; nothing is protected by it."""
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
