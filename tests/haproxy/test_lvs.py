"""keepalived's configuration of UDP and SCTP listeners: what it says, what the agent reads in it, that keepalived takes it."""

from __future__ import annotations

import re
import subprocess

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavia_core.domain.tree import (
    AdditionalVip,
    HealthMonitor,
    Listener,
    LoadBalancer,
    Member,
    Pool,
    SessionPersistence,
    Vip,
)
from octavia_core.domain.vocabulary import (
    Algorithm,
    ListenerProtocol,
    MonitorType,
    PersistenceType,
    PoolProtocol,
    Provisioning,
)
from octavia_core.errors import PermanentError
from octavia_core.settings import Settings
from octavia_haproxy.render.lvs import configure_lvs, lvs_listeners
from tests.support.strategies import hostile_text
from tests.support.system import require, unavailable

MEMBERS = (
    Member(id="m1", address="10.0.0.11", protocol_port=5353),
    Member(id="m2", address="2001:db8::12", protocol_port=53, weight=5),
    Member(id="m3", address="10.0.0.13", protocol_port=53, enabled=False),
    Member(id="m4", address="10.0.0.14", protocol_port=53, weight=0, monitor_address="10.9.9.9", monitor_port=99),
)
MONITOR = HealthMonitor(id="hm", type=MonitorType.UDP_CONNECT, delay=7, timeout=4, max_retries_down=2)
STICKY = SessionPersistence(
    type=PersistenceType.SOURCE_IP, persistence_timeout=60, persistence_granularity="255.255.0.0"
)
POOL = Pool(id="p", protocol=PoolProtocol.UDP, members=MEMBERS, health_monitor=MONITOR)
LISTENER = Listener(id="li", protocol=ListenerProtocol.UDP, protocol_port=53, default_pool_id="p")


def tree(pool=POOL, listener=LISTENER, **values):
    more = (AdditionalVip(subnet_id="s", ip_address="2001:db8::9"),)
    made = {"vip": Vip(ip_address="10.0.0.9"), "additional_vips": more} | values
    return LoadBalancer(id="lb", listeners=(listener,), pools=(pool,), **made)


def text_of(pool=POOL, listener=LISTENER, **values):
    return configure_lvs(tree(pool, listener, **values), listener, Settings())


EXPECTED = """\
# Configuration for Loadbalancer lb
# Configuration for Listener li

net_namespace amphora-haproxy

virtual_server_group ipv4-group {
    10.0.0.9 53
}

virtual_server group ipv4-group {
    lb_algo wrr
    lb_kind NAT
    protocol UDP
    persistence_timeout 60
    persistence_granularity 255.255.0.0
    delay_loop 7
    delay_before_retry 7
    retry 2

    # Configuration for Pool p
    # Configuration for HealthMonitor hm
    # Configuration for Member m1
    real_server 10.0.0.11 5353 {
        weight 1
        uthreshold 100
        MISC_CHECK {
            misc_path "/var/lib/octavia/lvs/check/udp_check.sh 10.0.0.11 5353"
            misc_timeout 4
        }
    }
    # Member m3 is disabled
    # Configuration for Member m4
    real_server 10.0.0.14 53 {
        weight 0
        uthreshold 100
        MISC_CHECK {
            misc_path "/var/lib/octavia/lvs/check/udp_check.sh 10.9.9.9 99"
            misc_timeout 4
        }
    }
}

virtual_server_group ipv6-group {
    2001:db8::9 53
}

virtual_server group ipv6-group {
    lb_algo wrr
    lb_kind NAT
    protocol UDP
    persistence_timeout 60
    persistence_granularity 128
    delay_loop 7
    delay_before_retry 7
    retry 2

    # Configuration for Pool p
    # Configuration for HealthMonitor hm
    # Configuration for Member m2
    real_server 2001:db8::12 53 {
        weight 5
        uthreshold 100
        MISC_CHECK {
            misc_path "/var/lib/octavia/lvs/check/udp_check.sh 2001:db8::12 53"
            misc_timeout 4
        }
    }
}
"""


def test_the_file_of_a_listener_with_both_families():
    sticky = attrs.evolve(POOL, session_persistence=STICKY)
    assert text_of(sticky, attrs.evolve(LISTENER, connection_limit=100)) == EXPECTED


@pytest.mark.parametrize(
    ("listener", "values", "first"),
    [
        (attrs.evolve(LISTENER, enabled=False), {}, "# Listener li is disabled"),
        (LISTENER, {"enabled": False}, "# Listener li is disabled"),
        (attrs.evolve(LISTENER, default_pool_id=None), {}, "# Configuration for Listener li"),
    ],
)
def test_what_serves_nobody_ends_after_the_namespace(listener, values, first):
    text = text_of(listener=listener, **values)
    assert text == f"# Configuration for Loadbalancer lb\n{first}\n\nnet_namespace amphora-haproxy\n"


def test_a_disabled_pool_is_named_and_has_no_servers():
    text = text_of(attrs.evolve(POOL, enabled=False))
    assert "# Pool p is disabled" in text
    assert "real_server" not in text


def test_members_being_deleted_and_a_disabled_monitor_are_left_out():
    gone = attrs.evolve(MEMBERS[0], provisioning_status=Provisioning.PENDING_DELETE)
    text = text_of(attrs.evolve(POOL, members=(gone, MEMBERS[3]), health_monitor=attrs.evolve(MONITOR, enabled=False)))
    assert "m1" not in text
    assert "MISC_CHECK" not in text
    assert "delay_loop" not in text
    assert "real_server 10.0.0.14 53" in text


def test_the_agent_finds_as_many_members_as_servers_in_their_order():
    """It matches them by index: comments of members that serve, and lines of real servers."""
    text = text_of()
    named = re.findall(r"# Configuration for Member (\S+)", text)
    servers = re.findall(r"^\s+real_server (\S+) (\d+) \{", text, re.MULTILINE)
    addresses = {member.id: (member.address, str(member.protocol_port)) for member in MEMBERS}
    assert [addresses[id] for id in named] == servers
    assert re.findall(r"# Member (\S+) is disabled", text) == ["m3"]
    groups = re.findall(r"^virtual_server_group (\S+) \{\n\s+(\S+) (\d+)\n", text, re.MULTILINE)
    assert groups == [("ipv4-group", "10.0.0.9", "53"), ("ipv6-group", "2001:db8::9", "53")]


def test_only_listeners_of_lvs_that_stay_are_meant():
    gone = attrs.evolve(LISTENER, id="gone", provisioning_status=Provisioning.PENDING_DELETE)
    web = attrs.evolve(LISTENER, id="web", protocol=ListenerProtocol.HTTP)
    sctp = attrs.evolve(LISTENER, id="sctp", protocol=ListenerProtocol.SCTP)
    lb = attrs.evolve(tree(), listeners=(LISTENER, gone, web, sctp))
    assert [listener.id for listener in lvs_listeners(lb)] == ["li", "sctp"]


MONITORS = (
    None,
    MONITOR,
    attrs.evolve(MONITOR, type=MonitorType.SCTP),
    attrs.evolve(MONITOR, type=MonitorType.TCP),
    attrs.evolve(MONITOR, type=MonitorType.PING),
    attrs.evolve(MONITOR, type=MonitorType.HTTP, url_path="/health?a=b&c=%20", expected_codes="200-202,301"),
)


def test_keepalived_takes_every_kind(tmp_path):
    program = require("keepalived")
    script = tmp_path / "lvs" / "check" / "udp_check.sh"
    script.parent.mkdir(parents=True)
    for place in (script, tmp_path / "amphora-health-checker"):
        place.write_text("#!/bin/sh\nexit 0\n")
        place.chmod(0o755)
    settings = attrs.evolve(
        Settings(), haproxy_amphora=attrs.evolve(Settings().haproxy_amphora, base_path=str(tmp_path))
    )
    texts = {}
    for number, monitor in enumerate(MONITORS):
        for algorithm in Algorithm:
            for session in (None, STICKY, attrs.evolve(STICKY, persistence_granularity="64", persistence_timeout=None)):
                for protocol in (ListenerProtocol.UDP, ListenerProtocol.SCTP):
                    listener = attrs.evolve(LISTENER, protocol=protocol, connection_limit=7)
                    pool = attrs.evolve(
                        POOL, health_monitor=monitor, lb_algorithm=algorithm, session_persistence=session
                    )
                    name = f"{number}-{algorithm}-{protocol}-{session is not None}".lower()
                    texts[name] = configure_lvs(tree(pool, listener), listener, settings)
    texts["broken"] = texts["1-round_robin-udp-false"].replace("lb_kind", "lb_kidn")
    for name, text in texts.items():
        # the namespace is made by the amphora; here keepalived is in one already
        (tmp_path / f"{name}.conf").write_text(text.replace("net_namespace amphora-haproxy\n", ""))
    checks = "; ".join(f"{program} -t -f {tmp_path}/{name}.conf 2>&1; echo {name} = $?" for name in texts)
    ran = subprocess.run(
        ["unshare", "-rn", "sh", "-c", f"PATH={tmp_path}:$PATH; {checks}"],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    if "broken = " not in ran.stdout:
        unavailable(f"no network namespace for keepalived: {ran.stderr.strip()}; to enable: run the tests as root")
    before, _, broken = ran.stdout.rpartition(f"{list(texts)[-2]} = ")
    assert "lb_kidn" in broken
    odd = [line for line in before.splitlines() if "nknown" in line or "invalid" in line.lower() or "Line" in line]
    assert odd == []


def _with(place, text):
    match place:
        case "url_path" | "expected_codes" | "timeout" | "delay" | "max_retries_down":
            monitor = attrs.evolve(MONITORS[-1], **{place: text})
            return tree(attrs.evolve(POOL, health_monitor=monitor))
        case "persistence_timeout" | "persistence_granularity":
            return tree(attrs.evolve(POOL, session_persistence=attrs.evolve(STICKY, **{place: text})))
        case "vip":
            return tree(vip=Vip(ip_address=text))
        case "listener":
            return tree(listener=attrs.evolve(LISTENER, id=text))
        case _:
            return tree(attrs.evolve(POOL, members=(attrs.evolve(MEMBERS[0], **{place: text}),)))


PLACES = (
    "url_path expected_codes timeout delay max_retries_down persistence_timeout persistence_granularity vip listener id "
    "address protocol_port weight monitor_address monitor_port"
).split()


@given(place=st.sampled_from(PLACES), text=hostile_text)
def test_no_text_becomes_more_than_the_word_it_stands_for(place, text):
    lb = _with(place, text)
    try:
        found = configure_lvs(lb, lb.listeners[0], Settings())
    except PermanentError as refused:
        assert any(kind in str(refused) for kind in ("health monitor", "pool", "member", "load balancer", "listener"))
        return
    for line in found.splitlines():
        if not line.lstrip().startswith("#"):
            assert line.count('"') in (0, 2)
            assert not re.search(r"[#!\\$~@<>`']", line)
            assert line.count("{") + line.count("}") <= 1


def test_the_same_tree_gives_the_same_bytes_whatever_the_order_of_vips():
    more = [AdditionalVip(subnet_id=str(n), ip_address=f"10.0.{n}.9") for n in range(3)]
    assert text_of(additional_vips=tuple(more)) == text_of(additional_vips=tuple(reversed(more)))
