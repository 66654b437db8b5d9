"""Additional VIPs by command."""

from __future__ import annotations

from tests.cli.conftest import Admin
from tests.support.members import ask, member


def test_a_load_balancer_with_another_address_by_command(admin: Admin) -> None:
    with member("one") as one:
        behind = f"127.0.0.1:{one.protocol_port}"
        wish = ("--name", "both", "--listener", "HTTP:8080", "--member", behind, "--additional-vip", "any", "--json")
        made = admin("lb", "create", *wish).data
        (more,) = made["additional_vips"]
        (listener,) = made["listeners"]
        assert listener["also_reachable_at"] == [f"{more['ip_address']}:8080"]
        assert {ask(f"http://{place}/") for place in (listener["reachable_at"], *listener["also_reachable_at"])} == {
            "one"
        }
        shown = admin.inside("lb", "show", "both").out
        assert f"{made['vip']['ip_address']} and {more['ip_address']}" in shown
        assert f"http://{more['ip_address']}:8080" in shown
        refused = admin.inside("lb", "create", "--additional-vip", "nonsense", code=2)
        assert "nonsense" in refused.err
