"""keepalived's configuration of a pair: what it says, that keepalived takes it, that nobody's text breaks out of it."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavia_core.domain.amphora import Amphora, VrrpGroup
from octavia_core.domain.secret import Secret
from octavia_core.domain.tree import AdditionalVip, LoadBalancer, Vip
from octavia_core.domain.vocabulary import AmphoraStatus, Role, Topology
from octavia_core.errors import PermanentError
from octavia_core.ports.amphora import VrrpDelivery
from octavia_core.ports.network import HostRoute, VipPlug
from octavia_core.settings import HaproxyAmphora, Settings
from octavia_haproxy.render.keepalived import configure_vrrp
from tests.support.strategies import hostile_text
from tests.support.system import require, unavailable

LB = "9f3f4a2e-59b5-4f0e-9a5a-0c1f5c3d2b1a"
PAIR = tuple(
    Amphora(
        id=f"amp-{role.lower()}",
        status=AmphoraStatus.ALLOCATED,
        load_balancer_id=LB,
        vrrp_ip=ip,
        role=role,
        vrrp_priority=priority,
        vrrp_id=1,
        vrrp_interface="eth1",
    )
    for role, ip, priority in ((Role.MASTER, "10.0.0.5", 100), (Role.BACKUP, "10.0.0.6", 90))
)
SUBNET = VipPlug(
    port_id="port",
    mac_address="fa:16:3e:00:00:01",
    vip="10.0.0.9",
    subnet_cidr="10.0.0.0/24",
    gateway="10.0.0.1",
    host_routes=(HostRoute(destination="10.7.0.0/16", nexthop="10.0.0.3"),),
    additional_vips=(
        {"ip_address": "2001:db8::9", "subnet_cidr": "2001:db8::/64", "gateway": "2001:db8::1", "host_routes": []},
        {"ip_address": "10.0.1.9", "subnet_cidr": "10.0.1.0/24", "gateway": None},
    ),
)
DELIVERY = VrrpDelivery(
    load_balancer=LoadBalancer(id=LB, vip=Vip(ip_address="10.0.0.9"), topology=Topology.ACTIVE_STANDBY),
    amphora=PAIR[0],
    peers=PAIR[1:],
    group=VrrpGroup(load_balancer_id=LB, name=LB.replace("-", ""), auth_pass=Secret("ab12cd3")),
    subnet=SUBNET,
)
MORE_VIPS = attrs.evolve(
    DELIVERY.load_balancer,
    additional_vips=tuple(
        AdditionalVip(subnet_id=f"s{n}", ip_address=ip) for n, ip in enumerate(("2001:db8::9", "10.0.1.9"))
    ),
)
SIX = attrs.evolve(
    DELIVERY,
    load_balancer=attrs.evolve(DELIVERY.load_balancer, vip=Vip(ip_address="2001:db8::9")),
    amphora=attrs.evolve(PAIR[0], vrrp_ip="2001:db8::5"),
    peers=(attrs.evolve(PAIR[1], vrrp_ip="2001:db8::6"),),
    subnet=attrs.evolve(SUBNET, vip="2001:db8::9", subnet_cidr="2001:db8::/64", gateway="2001:db8::1", host_routes=()),
)

EXPECTED = """\
vrrp_script check_script {
    script /var/lib/octavia/vrrp/check_script.sh
    interval 5
    fall 2
    rise 2
}

vrrp_instance 9f3f4a2e59b54f0e9a5a0c1f5c3d2b1a {
    interface eth1
    virtual_router_id 1
    priority 100
    nopreempt
    accept
    garp_master_refresh 5
    garp_master_refresh_repeat 2
    advert_int 1
    authentication {
        auth_type PASS
        auth_pass ab12cd3
    }
    unicast_src_ip 10.0.0.5
    unicast_peer {
        10.0.0.6
    }
    virtual_ipaddress {
        10.0.0.9
        10.0.1.9
    }
    virtual_ipaddress_excluded {
        2001:db8::9
    }
    virtual_routes {
        10.0.0.0/24 dev eth1 src 10.0.0.9 scope link table 1
        default via 10.0.0.1 dev eth1 onlink table 1
        10.7.0.0/16 dev eth1 via 10.0.0.3 onlink table 1
        10.0.1.0/24 dev eth1 src 10.0.1.9 scope link table 1
        2001:db8::/64 dev eth1 src 2001:db8::9 scope link table 1
        default via 2001:db8::1 dev eth1 onlink table 1
    }
    virtual_rules {
        from 10.0.0.9/32 table 1 priority 100
        from 10.0.1.9/32 table 1 priority 100
        from 2001:db8::9/128 table 1 priority 100
    }
    track_script {
        check_script
    }
}
"""


def test_the_file_of_a_master_with_three_vips():
    assert configure_vrrp(attrs.evolve(DELIVERY, load_balancer=MORE_VIPS), Settings()) == EXPECTED


def test_both_say_the_same_but_for_who_they_are():
    master, backup = (
        configure_vrrp(attrs.evolve(DELIVERY, amphora=own, peers=(other,)), Settings()).splitlines()
        for own, other in (PAIR, PAIR[::-1])
    )
    different = [(one.strip(), two.strip()) for one, two in zip(master, backup, strict=True) if one != two]
    assert different == [
        ("priority 100", "priority 90"),
        ("unicast_src_ip 10.0.0.5", "unicast_src_ip 10.0.0.6"),
        ("10.0.0.6", "10.0.0.5"),
    ]


def test_the_order_of_peers_and_vips_does_not_matter():
    third = attrs.evolve(PAIR[1], id="amp-third", vrrp_ip="10.0.0.7")
    vips = MORE_VIPS.additional_vips
    texts = {
        configure_vrrp(
            attrs.evolve(DELIVERY, peers=peers, load_balancer=attrs.evolve(MORE_VIPS, additional_vips=additional)),
            Settings(),
        )
        for peers in ((PAIR[1], third), (third, PAIR[1]))
        for additional in (vips, vips[::-1])
    }
    assert len(texts) == 1


def test_one_that_is_alone_speaks_to_itself_and_never_to_the_whole_subnet():
    text = configure_vrrp(attrs.evolve(DELIVERY, peers=()), Settings())
    assert "    unicast_peer {\n        10.0.0.5\n    }\n" in text


def test_keepalived_takes_it(tmp_path):
    program = require("keepalived")
    script = tmp_path / "vrrp" / "check_script.sh"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\nexit 0\n")
    script.chmod(0o755)
    settings = Settings(haproxy_amphora=HaproxyAmphora(base_path=str(tmp_path)))
    whole = attrs.evolve(DELIVERY, load_balancer=MORE_VIPS)
    variants = {
        "whole": whole,
        "backup": attrs.evolve(DELIVERY, amphora=PAIR[1], peers=PAIR[:1]),
        "alone": attrs.evolve(DELIVERY, peers=()),
        "six": SIX,
        "ah": attrs.evolve(DELIVERY, group=attrs.evolve(DELIVERY.group, auth_type="AH")),
    }
    files = []
    for name, delivery in variants.items():
        files.append(tmp_path / f"{name}.conf")
        files[-1].write_text(configure_vrrp(delivery, settings))
    broken = tmp_path / "broken.conf"  # a judge that never convicts proves nothing
    broken.write_text(files[0].read_text().replace("virtual_rules", "virtual_ruels"))
    checks = "; ".join(f"{program} -t -f {file} 2>&1; echo {file.name} $?" for file in (*files, broken))
    command = f"ip link add eth1 type veth peer name eth1-peer && ({checks})"
    ran = subprocess.run(
        ["unshare", "-rn", "sh", "-c", command], capture_output=True, text=True, timeout=60, check=False
    )
    if "broken.conf" not in ran.stdout:
        unavailable(f"no network namespace for keepalived: {ran.stderr.strip()}; to enable: run the tests as root")
    said = dict.fromkeys([*variants, "broken"], "")
    for line in ran.stdout.splitlines():
        complaint = re.match(r"\S*/(\w+)\.conf: |\(/\S*/(\w+)\.conf: Line", line)
        if complaint:
            said[complaint[1] or complaint[2]] += line + "\n"
    verdicts = dict(re.findall(r"^(\w+)\.conf (\d+)$", ran.stdout, re.MULTILINE))
    assert "virtual_ruels" in said.pop("broken")
    assert set(said.values()) == {""}, ran.stdout
    # 6: it wants script security, which is for who runs it to turn on; the agent's image does not
    assert set(verdicts.values()) <= {"0", "6"}, ran.stdout


def _with(place, text):
    """The delivery with that text at that place."""
    lb, group = DELIVERY.load_balancer, DELIVERY.group
    match place:
        case "vip":
            return attrs.evolve(DELIVERY, load_balancer=attrs.evolve(lb, vip=Vip(ip_address=text)))
        case "vrrp_ip" | "vrrp_interface" | "vrrp_id" | "vrrp_priority":
            return attrs.evolve(DELIVERY, amphora=attrs.evolve(PAIR[0], **{place: text}))
        case "peer":
            return attrs.evolve(DELIVERY, peers=(attrs.evolve(PAIR[1], vrrp_ip=text),))
        case "name" | "auth_type":
            return attrs.evolve(DELIVERY, group=attrs.evolve(group, **{place: text}))
        case "auth_pass":
            return attrs.evolve(DELIVERY, group=attrs.evolve(group, auth_pass=Secret(text.encode(errors="replace"))))
        case "advert_int":
            return attrs.evolve(DELIVERY, group=attrs.evolve(group, advert_int=text))
        case "destination" | "nexthop":
            route = attrs.evolve(SUBNET.host_routes[0], **{place: text})
            return attrs.evolve(DELIVERY, subnet=attrs.evolve(SUBNET, host_routes=(route,)))
        case _:
            return attrs.evolve(DELIVERY, subnet=attrs.evolve(SUBNET, **{place: text}))


PLACES = (
    "vip vrrp_ip vrrp_interface vrrp_id vrrp_priority peer name auth_type auth_pass advert_int destination nexthop "
    "subnet_cidr gateway"
).split()


@given(place=st.sampled_from(PLACES), text=hostile_text)
def test_no_text_becomes_more_than_the_word_it_stands_for(place, text):
    try:
        found = configure_vrrp(_with(place, text), Settings())
    except PermanentError:
        return
    plain = configure_vrrp(DELIVERY, Settings())
    if place == "gateway" and not text:
        return  # no gateway is a subnet without one
    assert [len(line.split()) for line in found.splitlines()] == [len(line.split()) for line in plain.splitlines()]
    assert re.fullmatch(r"[A-Za-z0-9_.:/{}\- \n]*", found)


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("vrrp_interface", "eth1\n}"), ("vrrp_interface", None), ("vrrp_ip", None), ("vip", None), ("vip", "10.0.0.9 }"),
        ("name", "a b"), ("auth_pass", "a#b"), ("auth_pass", ""), ("auth_type", "NONE"), ("subnet_cidr", "10.0.0.0"),
        ("vrrp_priority", 255), ("vrrp_id", 0), ("advert_int", "1\nno"), ("peer", "$(id)"), ("destination", "default"),
        ("destination", "::%x }"), ("subnet_cidr", "::%x\n}"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_refused_by_name(place, text):
    if place == "subnet_cidr":
        text += "/33"
    with pytest.raises(PermanentError, match=r"amphora amp-|load balancer 9f3f"):
        configure_vrrp(_with(place, text), Settings())


def test_no_secret_is_in_a_refusal():
    with pytest.raises(PermanentError) as refusal:
        configure_vrrp(_with("auth_pass", "pass word"), Settings())
    assert "pass word" not in str(refusal.value)


def test_a_path_that_keepalived_would_split_is_refused():
    with tempfile.TemporaryDirectory(prefix="a b") as folder, pytest.raises(PermanentError, match="base_path"):
        configure_vrrp(DELIVERY, Settings(haproxy_amphora=HaproxyAmphora(base_path=str(Path(folder)))))
