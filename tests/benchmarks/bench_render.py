"""Rendering: 100 listeners with 100 pools and 10,000 members, and reading it back as a push does."""

from __future__ import annotations

import time

from octavia_core.domain.amphora import Amphora
from octavia_core.domain.tree import HealthMonitor, Listener, LoadBalancer, Member, Pool, Vip
from octavia_core.domain.vocabulary import AmphoraStatus, ListenerProtocol, MonitorType, PoolProtocol
from octavia_core.ports.amphora import Delivery
from octavia_core.settings import Settings
from octavia_haproxy.render.config import configure
from octavia_haproxy.render.held import read_back
from octavia_haproxy.render.model import Facts
from tests.benchmarks.harness import Aim, Figure, Options, Report, spread

_COUNT = 100


def run(options: Options) -> Report:
    """Render and read back, `rounds` times (20)."""
    amphora = Amphora(id="amphora", status=AmphoraStatus.ALLOCATED)
    delivery = Delivery(load_balancer=_load_balancer(), amphora=amphora)
    rendering, reading, text = [], [], ""
    for _ in range(options.rounds or 20):
        start = time.perf_counter()
        text = configure(delivery, Settings(), Facts()).text or ""
        middle = time.perf_counter()
        read_back(text, "/var/lib/octavia/certs/lb")
        rendering.append(middle - start)
        reading.append(time.perf_counter() - middle)
    figures = [*spread("render", rendering), *spread("read back", reading), Figure("size", len(text), "bytes")]
    return Report(name="render", figures=figures, aims=[Aim("render 10,000 members", figures[0].value, 0.3)])


def _load_balancer() -> LoadBalancer:
    pools = tuple(_pool(number) for number in range(_COUNT))
    listeners = tuple(
        Listener(
            id=f"listener-{number}",
            protocol=ListenerProtocol.HTTP,
            protocol_port=8000 + number,
            default_pool_id=pool.id,
            insert_headers={"X-Forwarded-For": "true"},
        )
        for number, pool in enumerate(pools)
    )
    return LoadBalancer(id="lb", vip=Vip(ip_address="192.0.2.1"), listeners=listeners, pools=pools)


def _pool(number: int) -> Pool:
    members = tuple(
        Member(id=f"member-{number}-{index}", address=f"10.0.{number}.{index}", protocol_port=80)
        for index in range(_COUNT)
    )
    monitor = HealthMonitor(id=f"monitor-{number}", type=MonitorType.HTTP, expected_codes="200-204")
    return Pool(id=f"pool-{number}", protocol=PoolProtocol.HTTP, members=members, health_monitor=monitor)
