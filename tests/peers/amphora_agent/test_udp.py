"""UDP listeners on the unmodified agent of upstream Octavia 19, beside an HTTP listener.

Where this kernel has no ip_vs, keepalived ends at once and the agent says 202 all the same: then it is shown that the
listener is told as what it is. The rest of a listener's life is shown with a stand-in for keepalived that stays: all but
the datagrams themselves, which are the kernel's.
"""

from __future__ import annotations

import attrs
import pytest

from octavia_core.domain.tree import HealthMonitor, Member
from octavia_core.domain.vocabulary import ListenerProtocol, MonitorType, PoolProtocol
from octavia_haproxy.render.lvs import configure_lvs
from tests.peers.amphora_agent.lab import MEMBERS
from tests.support.trees import listener, pool

UDP = "0f2a1c1e-0000-4000-8000-000000000001"
STAYS = """\
#!/bin/sh
files=""
while [ $# -gt 0 ]; do
    case "$1" in -p|-r|-c) files="$files $2";; esac
    shift
done
sleep 1000 </dev/null >/dev/null 2>&1 &
for file in $files; do echo $! > "$file"; done
"""
"""keepalived where there is an ip_vs: it goes to the background, and its pid files name it."""


@pytest.fixture(scope="module")
def both(tree):
    """The tree with a UDP listener beside, on the port of the HTTP listener."""
    members = tuple(
        Member(id=f"c1a2b3c4-0000-4000-8000-0000000001{n}", address=f"{MEMBERS}.{n}", protocol_port=53)
        for n in (61, 62)
    )
    monitor = HealthMonitor(id="hm-udp", type=MonitorType.UDP_CONNECT, delay=1, timeout=1, max_retries_down=1)
    one = pool(id="p-udp", protocol=PoolProtocol.UDP, members=members, health_monitor=monitor)
    udp = listener(one, protocol=ListenerProtocol.UDP, protocol_port=80, id=UDP)
    return attrs.evolve(tree, listeners=(*tree.listeners, udp), pools=(*tree.pools, one))


def kinds(agent):
    return sorted(each.type for each in agent.listeners())


def test_a_listener_that_the_amphora_cannot_serve_is_said_and_the_others_are_served(push, both, machine, driver):
    agent = driver._agent(machine.at)
    pushed, sent = push(both)
    if not pushed.skipped_listeners:
        pytest.skip("this kernel has ip_vs")
    assert pushed.skipped_listeners == (UDP,)
    assert "ip_vs" in pushed.reasons[UDP]
    assert kinds(agent) == ["HTTP", "TERMINATED_HTTPS"]
    assert agent.udp_listener(UDP) is None  # in a pair its check would take the VIP from the others
    assert sum(words.endswith(f"/{UDP}/udp_listener") for words in sent if words.startswith("PUT")) == 1


def test_a_listener_is_delivered_left_alone_changed_and_removed(push, both, tree, machine, driver, tmp_path):
    stand_in = tmp_path / "keepalived"
    stand_in.write_text(STAYS)
    stand_in.chmod(0o755)
    machine.inside("mount", "--bind", str(stand_in), "/usr/sbin/keepalived", namespace=False)
    agent = driver._agent(machine.at)
    pushed, _ = push(both)
    assert pushed.skipped_listeners == ()
    assert agent.udp_listener(UDP) == configure_lvs(both, both.listeners[-1], driver._settings)
    assert kinds(agent) == ["HTTP", "TERMINATED_HTTPS", "UDP"]
    again, sent = push(both)
    assert not again.changed
    assert again.etag == pushed.etag
    assert {words.split()[0] for words in sent} == {"GET"}
    lighter = attrs.evolve(both.pools[-1], members=both.pools[-1].members[:1])
    changed, sent = push(attrs.evolve(both, pools=(*both.pools[:-1], lighter)))
    assert changed.changed
    puts = [words.rpartition("/")[2] for words in sent if words.startswith("PUT")]
    assert puts == ["udp_listener", "reload", f"octavia-udp-{UDP}.pem"]  # and nothing of HAProxy's
    removed, sent = push(tree)
    assert removed.changed
    assert next(words for words in sent if words.startswith("DELETE")) == f"DELETE /1.0/listeners/{UDP}"
    assert not [words for words in sent if words.startswith("PUT")]
    assert kinds(agent) == ["HTTP", "TERMINATED_HTTPS"]


def test_without_haproxy_listeners_only_the_udp_service_is_left_and_removing_takes_it_too(push, both, machine, driver):
    agent = driver._agent(machine.at)
    alone = attrs.evolve(both, listeners=both.listeners[-1:], pools=both.pools[-1:])
    push(alone)
    assert kinds(agent) == ["UDP"]
    assert agent.configuration(both.id) is None
    assert not push(alone)[0].changed
    driver.remove(machine.at, both.id)
    assert kinds(agent) == []
