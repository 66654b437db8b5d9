"""The row that a pair agrees on: made once, read by upstream's worker as well, gone with its load balancer."""

from __future__ import annotations

import attrs
from sqlalchemy import select, update

from octavia_core.db.tables.balancer import vrrp_group
from octavia_core.domain.amphora import VrrpGroup
from octavia_core.domain.secret import Secret
from octavia_core.domain.tree import LoadBalancer
from octavia_core.domain.vocabulary import Topology
from tests.db.values import new_id


def pair(storage):
    lb = LoadBalancer(id=new_id(), topology=Topology.ACTIVE_STANDBY)
    storage.transaction(lambda tx: tx.insert(lb))
    return VrrpGroup(load_balancer_id=lb.id, name=lb.id.replace("-", ""), auth_pass=Secret("ab12cd3"), advert_int=2)


def test_it_is_stored_as_upstream_stores_it_and_read_back(storage):
    group = pair(storage)
    assert storage.read(lambda tx: tx.vrrp_group(group.load_balancer_id)) is None
    storage.transaction(lambda tx: tx.add_vrrp_group(group))
    assert storage.read(lambda tx: tx.vrrp_group(group.load_balancer_id)) == group
    (row,) = storage.look(
        lambda tx: tx.rows(select(vrrp_group).where(vrrp_group.c.load_balancer_id == group.load_balancer_id))
    )
    assert tuple(row) == (group.load_balancer_id, group.name, "PASS", "ab12cd3", 2)


def test_what_its_amphorae_know_is_not_replaced(storage):
    group = pair(storage)
    storage.transaction(lambda tx: tx.add_vrrp_group(group))
    other = attrs.evolve(group, auth_pass=Secret("other"), advert_int=9)
    storage.transaction(lambda tx: tx.add_vrrp_group(other))
    assert storage.read(lambda tx: tx.vrrp_group(group.load_balancer_id)) == group


def test_a_row_with_holes_is_read_as_upstream_would(storage):
    group = pair(storage)
    storage.transaction(lambda tx: tx.add_vrrp_group(group))
    holes = {"vrrp_group_name": None, "vrrp_auth_type": "AH", "advert_int": None}
    storage.transaction(lambda tx: tx.write(update(vrrp_group).values(holes)))
    found = storage.read(lambda tx: tx.vrrp_group(group.load_balancer_id))
    assert found == attrs.evolve(group, auth_type="AH", advert_int=1)
