"""What may be looked at without changing anything: the half of the controller that only reads."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from octavia_core.controller.adopt import Orphan, orphans
from octavia_core.controller.explain import Explanation, why
from octavia_core.controller.sensible import sensible
from octavia_core.controller.timeline import Moment, timeline
from octavia_core.controller.waiter import SHORTEST
from octavia_core.domain.amphora import Amphora
from octavia_core.domain.operation import Event
from octavia_core.domain.operation import Operation as Row
from octavia_core.domain.tree import Listener, LoadBalancer
from octavia_core.domain.vocabulary import Kind, Provisioning
from octavia_core.errors import BadRequest, ConfigurationError, NotFound
from octavia_core.flows.world import World
from octavia_core.ports.storage import Revision, Storage, Summary
from octavia_core.settings import Settings

__all__ = ["Looks", "one_of"]


class Looks:
    """What `octavia_core.Controller` says of load balancers, amphorae and operations, by their rows."""

    settings: Settings
    storage: Storage
    world: World

    def running(self) -> bool | None:
        """See `octavia_core.Controller.running`."""
        raise TypeError("only a controller is looked at")

    @sensible()
    def load_balancer(self, name_or_id: str) -> LoadBalancer:
        """The whole tree as the rows say now.

        Raises:
            NotFound: there is none (DELETED ones do not count).
            BadRequest: several have that name; the message lists their ids.
        """
        lb_id = self.resolve(Kind.LOAD_BALANCER, name_or_id)
        tree = self.storage.read(lambda tx: tx.tree(lb_id))
        if tree is None or tree.provisioning_status is Provisioning.DELETED:
            raise NotFound("load balancer", name_or_id)
        return tree

    def load_balancers(self) -> Sequence[Summary]:
        """All that are not DELETED."""
        return self.storage.read(lambda tx: tx.load_balancers())

    @sensible()
    def resolve(self, kind: Kind, name_or_id: str) -> str:
        """The id for a name or id; errors as `load_balancer`."""
        found = self.storage.read(lambda tx: tx.find(kind, name_or_id))
        return one_of(kind, name_or_id, found)

    def reachable_at(self, load_balancer: LoadBalancer, listener: Listener) -> str | None:
        """Where clients reach a listener, "host:port"; None before the VIP is known."""
        address = load_balancer.vip.ip_address
        return None if address is None else self.world.network.reachable_at(address, listener.protocol_port)

    def also_reachable_at(self, load_balancer: LoadBalancer, listener: Listener) -> tuple[str, ...]:
        """The same by its additional VIPs, in their order; those without an address yet are left out."""
        addresses = (vip.ip_address for vip in load_balancer.additional_vips)
        return tuple(
            self.world.network.reachable_at(one, listener.protocol_port) for one in addresses if one is not None
        )

    @sensible()
    def amphorae(self, load_balancer_id: str | None = None) -> Sequence[Amphora]:
        """Those of one load balancer, or all; not the DELETED ones."""
        return self.storage.read(lambda tx: tx.amphorae(load_balancer_id))

    @sensible()
    def amphora(self, id: str) -> Amphora:
        """One amphora, DELETED or not."""
        found = self.storage.read(lambda tx: tx.amphora(id))
        if found is None:
            raise NotFound("amphora", id)
        return found

    @sensible()
    def operations(
        self, *, load_balancer_id: str | None = None, open_only: bool = False, limit: int = 100
    ) -> Sequence[Row]:
        """Rows of operations, newest first."""
        return self.storage.read(
            lambda tx: tx.operations(load_balancer_id=load_balancer_id, open_only=open_only, limit=limit)
        )

    @sensible()
    def events(self, *, after: int = 0, load_balancer_id: str | None = None, limit: int = 1000) -> Sequence[Event]:
        """What happened, oldest first, with a sequence above `after`."""
        return self.storage.read(lambda tx: tx.events(after=after, load_balancer_id=load_balancer_id, limit=limit))

    @sensible()
    def revisions(self, load_balancer_id: str) -> Sequence[Revision]:
        """The configurations a load balancer had, newest first."""
        return self.storage.read(lambda tx: tx.revisions(load_balancer_id))

    @sensible()
    def why(self, name_or_id: str) -> Explanation:
        """Say why a load balancer (or something below it), an amphora or an operation is as it is, and what happens next.

        Raises:
            NotFound: there is no such thing.
            BadRequest: several things have that name; the message lists their ids.
        """
        looks = SHORTEST
        with contextlib.suppress(ConfigurationError):  # a driver that is not installed here
            looks = max(self.world.compute.poll_interval, SHORTEST)
        return why(self.storage, self.settings, name_or_id, running=self.running(), looks=looks)

    @sensible()
    def timeline(self, name_or_id: str) -> tuple[Moment, ...]:
        """What happened to a load balancer, an amphora or an operation, step by step; errors as `why`."""
        return timeline(self.storage, name_or_id)

    def orphans(self) -> tuple[Orphan, ...]:
        """What exists outside and belongs to no row, and undos that go on trying; nothing is touched."""
        return orphans(self.storage, self.world)


def one_of(kind: Kind, name: str, found: Sequence[str]) -> str:
    """The only id that was found for a name."""
    if not found:
        raise NotFound(kind.words, name)
    if len(found) > 1:
        raise BadRequest(f"{len(found)} {kind.words}s are called {name!r}; say which: {', '.join(found)}")
    return found[0]
