"""A pair that the unmodified API was asked for, by a flavor: made by our worker, in rows that upstream's programs read."""

from __future__ import annotations

import json

import pytest

from tests.peers.octavia_api.stage import Stage

pytestmark = pytest.mark.external


def test_a_flavor_of_topology_active_standby_gets_a_pair(on: Stage) -> None:
    data = json.dumps({"loadbalancer_topology": "ACTIVE_STANDBY"})
    profile = {"name": "pair", "provider_name": "amphora", "flavor_data": data}
    made = on.ask("POST", "/v2.0/lbaas/flavorprofiles", {"flavorprofile": profile})["flavorprofile"]
    wanted = {"name": "pair", "flavor_profile_id": made["id"], "enabled": True}
    flavor = on.ask("POST", "/v2.0/lbaas/flavors", {"flavor": wanted})["flavor"]
    lb = on.load_balancer("pair", flavor_id=flavor["id"])["id"]
    on.settled(lb)
    shown = on.ask("GET", f"/v2.0/octavia/amphorae?loadbalancer_id={lb}")["amphorae"]
    assert sorted((a["role"], a["vrrp_priority"], a["vrrp_id"], a["vrrp_interface"], a["status"]) for a in shown) == [
        ("BACKUP", 90, 1, "eth1", "ALLOCATED"),
        ("MASTER", 100, 1, "eth1", "ALLOCATED"),
    ]
    assert len({a["vrrp_ip"] for a in shown}) == 2
    (group,) = on.database.rows("SELECT * FROM vrrp_group WHERE load_balancer_id = %s", lb)
    assert (group["vrrp_group_name"], group["vrrp_auth_type"], group["advert_int"]) == (lb.replace("-", ""), "PASS", 1)
    assert len(group["vrrp_auth_pass"]) == 7
    on.ask("PUT", f"/v2.0/octavia/amphorae/{shown[0]['id']}/failover")
    on.settled(lb)
    after = on.ask("GET", f"/v2.0/octavia/amphorae?loadbalancer_id={lb}&status=ALLOCATED")["amphorae"]
    assert sorted(a["role"] for a in after) == ["BACKUP", "MASTER"]
    assert len({a["id"] for a in after} & {a["id"] for a in shown}) == 1
    on.ask("DELETE", f"/v2/lbaas/loadbalancers/{lb}?cascade=true")
    on.settled(lb, "DELETED")
