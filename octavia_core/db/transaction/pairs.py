"""The row that the two amphorae of a pair agree on."""

from __future__ import annotations

from sqlalchemy import select

from octavia_core.db.tables.balancer import vrrp_group
from octavia_core.db.transaction.session import Session
from octavia_core.domain.amphora import VrrpGroup
from octavia_core.domain.secret import Secret

__all__ = ["Pairs"]


class Pairs(Session):
    """`vrrp_group`, one row a load balancer at most; upstream's worker reads and writes the same."""

    def vrrp_group(self, load_balancer_id: str) -> VrrpGroup | None:
        """The row as a value, or None."""
        found = self.row(select(vrrp_group).where(vrrp_group.c.load_balancer_id == load_balancer_id))
        if found is None:
            return None
        return VrrpGroup(
            load_balancer_id=load_balancer_id,
            name=found.vrrp_group_name or load_balancer_id.replace("-", ""),
            auth_type=found.vrrp_auth_type or "PASS",
            auth_pass=Secret(found.vrrp_auth_pass or ""),
            advert_int=found.advert_int or 1,
        )

    def add_vrrp_group(self, group: VrrpGroup) -> None:
        """Store it, unless the load balancer has one."""
        if self.vrrp_group(group.load_balancer_id) is not None:
            return
        row = {
            "load_balancer_id": group.load_balancer_id,
            "vrrp_group_name": group.name,
            "vrrp_auth_type": group.auth_type,
            "vrrp_auth_pass": group.auth_pass.reveal().decode(),
            "advert_int": group.advert_int,
        }
        self.add_rows(vrrp_group, [row])
