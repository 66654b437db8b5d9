"""What users have: openstacksdk and python-octaviaclient, against an API without authentication."""

from __future__ import annotations

import warnings
from typing import Any

from tests.peers.octavia_api.stage import PROJECT

__all__ = ["SUBNET", "Clients"]

SUBNET = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"
"""Upstream's no-op network driver makes up whatever subnet it is asked for."""


class Clients:
    """Both clients on one API.

    Attributes:
        sdk: `openstack.connection.Connection().load_balancer`.
        client: python-octaviaclient's API.
    """

    def __init__(self, url: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they warn about their own libraries
            import openstack.connection
            from keystoneauth1 import session, token_endpoint
            from octaviaclient.api.v2.octavia import OctaviaAPI

            http = session.Session(auth=token_endpoint.Token(url, "none"))
            self.sdk: Any = openstack.connection.Connection(
                session=http, load_balancer_endpoint_override=url
            ).load_balancer
            self.client: Any = OctaviaAPI(endpoint=f"{url}/v2.0", session=http, service_type="load-balancer")

    def load_balancer(self, name: str, **values: Any) -> str:
        """Create a load balancer and wait until it is ACTIVE, as users do; its id."""
        made = self.sdk.create_load_balancer(name=name, vip_subnet_id=SUBNET, project_id=PROJECT, **values)
        self.active(made.id)
        return str(made.id)

    def active(self, lb_id: str) -> Any:
        """Wait until it is ACTIVE."""
        return self.sdk.wait_for_load_balancer(lb_id, interval=0.05, wait=60)
