"""The same load balancers, wished of a controller: `Controller.create_load_balancer`, and served by a local amphora.

All of a test run share one controller; each load balancer has an amphora of its own, which goes with it.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs
import pytest

from octavia_core import (
    Controller,
    NewHealthMonitor,
    NewL7Policy,
    NewL7Rule,
    NewListener,
    NewLoadBalancer,
    NewMember,
    NewPool,
)
from octavia_core.domain.tree import L7Policy, Listener, LoadBalancer, Pool
from octavia_core.domain.vocabulary import Operating
from octavia_core.ports.amphora import Material
from tests.support.haproxies import chosen
from tests.support.running import Running, no_log

__all__ = ["Library", "ServedByLibrary", "open_library", "wish_of"]

PATIENCE = 60.0

_SETTINGS = """\
[local]
haproxy = {haproxy}

[health_manager]
heartbeat_timeout = 60.0

[haproxy_amphora]
rest_request_conn_timeout = 60.0
rest_request_read_timeout = 60.0
"""
"""Here nobody dies: a machine that stands still for some seconds is no reason to replace one that serves."""

T = TypeVar("T")

_AS_HAPROXY_SAYS = {
    Operating.ONLINE: "UP",
    Operating.ERROR: "DOWN",
    Operating.NO_MONITOR: "no check",
    Operating.DRAINING: "DRAIN",
    Operating.OFFLINE: "MAINT",
}


@attrs.define
class ServedByLibrary(Running):
    """What a controller serves. What members are is what its rows say; there is no log and no console."""

    controller: Controller = attrs.field(kw_only=True)

    def command(self, text: str) -> str:
        """Skips the test: the console is the agent's."""
        pytest.skip("the agent keeps HAProxy's console to itself")

    def server_status(self, member_id: str) -> str:
        """Its operating status, in HAProxy's words."""
        found = {member.name: member for pool in self._tree().pools for member in pool.members}
        return _AS_HAPROXY_SAYS[found[member_id].operating_status] if member_id in found else "absent"

    def known_as(self, member_id: str) -> str:
        """The id that the library gave it."""
        return next(m.id for pool in self._tree().pools for m in pool.members if m.name == member_id)

    def _tree(self) -> LoadBalancer:
        return self.controller.load_balancer(self.id)


@contextlib.contextmanager
def open_library(state: Path) -> Iterator[Library]:
    """Open a controller; its amphorae run the HAProxy of these tests."""
    state.mkdir(mode=0o700)
    _write(state / "octavia.toml", _SETTINGS.format(haproxy=json.dumps(chosen().path)))
    with Controller.open(state) as controller:
        yield Library(controller, state)


@attrs.frozen
class Library:
    """A controller on a state directory of its own."""

    controller: Controller
    state: Path

    def serve(self, wanted: LoadBalancer, material: Material | None) -> Iterator[ServedByLibrary]:
        """Wish for it at the address that it has, and delete it after use."""
        refs = self._store(material or Material())
        operation = self.controller.create_load_balancer(wish_of(wanted, refs))
        made = str(operation.load_balancer_id)
        try:
            operation.wait(PATIENCE)
            with no_log() as log:
                yield ServedByLibrary(
                    address=str(wanted.vip.ip_address), folder=self.state, id=made, log=log, controller=self.controller
                )
        finally:
            self.controller.delete_load_balancer(made, wait=PATIENCE).wait(PATIENCE)

    def _store(self, material: Material) -> dict[str, str]:
        """Put secrets where the controller looks for them, under names that nobody had before; old name -> new one."""
        folder = self.state / "secrets"
        folder.mkdir(mode=0o700, exist_ok=True)
        refs = {ref: f"{uuid.uuid4()}" for ref in (*material.bundles, *material.payloads)}
        for ref, bundle in material.bundles.items():
            parts = [bundle.certificate, bundle.private_key.reveal().decode(), *bundle.intermediates]
            _write(folder / f"{refs[ref]}.pem", "\n".join(parts) + "\n")
        for ref, payload in material.payloads.items():
            _write(folder / refs[ref], payload)
        return refs


def _write(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def wish_of(tree: LoadBalancer, refs: Mapping[str, str]) -> NewLoadBalancer:
    """The wish that makes such a load balancer. Everything in it is named by the id that it had.

    Args:
        tree: what is wanted.
        refs: what secrets are called now.
    """

    def secret(ref: str | None) -> str | None:
        return None if ref is None else refs.get(ref, ref)

    def pool(one: Pool) -> NewPool:
        monitor = one.health_monitor
        return _like(
            NewPool,
            one,
            name=one.id,
            members=[_like(NewMember, member, name=member.id) for member in one.members],
            health_monitor=_like(NewHealthMonitor, monitor) if monitor is not None else None,
            tls_certificate_id=secret(one.tls_certificate_id),
            ca_tls_certificate_id=secret(one.ca_tls_certificate_id),
            crl_container_id=secret(one.crl_container_id),
        )

    def policy(one: L7Policy) -> NewL7Policy:
        return _like(NewL7Policy, one, position=None, rules=[_like(NewL7Rule, rule) for rule in one.rules])

    def listener(one: Listener) -> NewListener:
        policies = sorted(one.l7policies, key=lambda each: each.position)  # a wish has them in their order
        return _like(
            NewListener,
            one,
            name=one.id,
            l7policies=[policy(each) for each in policies],
            tls_certificate_id=secret(one.tls_certificate_id),
            sni_container_ids=[str(secret(ref)) for ref in one.sni_container_ids],
            client_ca_tls_certificate_id=secret(one.client_ca_tls_certificate_id),
            client_crl_container_id=secret(one.client_crl_container_id),
        )

    return NewLoadBalancer(
        name=tree.id,
        project_id=tree.project_id,
        enabled=tree.enabled,
        vip_address=tree.vip.ip_address,
        additional_vips=tree.additional_vips,
        listeners=[listener(one) for one in tree.listeners],
        pools=[pool(one) for one in tree.pools],
    )


def _like(kind: type[T], value: Any, **more: Any) -> T:
    """A wish with what the value has of its fields, and what is said besides."""
    there: Collection[str] = {field.name for field in attrs.fields(type(value))}
    wanted = [field.name for field in attrs.fields(kind) if field.name in there]  # type: ignore[arg-type]
    return kind(**{name: getattr(value, name) for name in wanted} | more)
