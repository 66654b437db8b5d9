"""The main job by command, on real HAProxy: with no controller running, and beside one."""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from octavia_core.controller.state import prepare_state
from tests.cli.conftest import Admin
from tests.support.members import ask, member

PATIENCE = 60.0

pytestmark = pytest.mark.timeout(300)  # many processes, one after the other: on a busy machine that takes minutes


@pytest.fixture
def admin(admin: Admin) -> Admin:
    """The command on a fresh state directory, where nobody dies but who is killed."""
    return admin.calm()


def until(true: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def place(shown: dict[str, Any], listener: int = 0) -> str:
    return str(shown["listeners"][listener]["reachable_at"])


def amphorae(admin: Admin) -> dict[str, str]:
    """Their statuses by their ids."""
    return {one["id"]: one["status"] for one in admin.inside("amphora", "list", "--json").data}


def agent_pid(admin: Admin) -> int:
    (amphora,) = admin.inside("amphora", "list", "--json").data
    file = admin.state / "amphorae" / amphora["id"] / "process.json"
    return int(json.loads(file.read_text())["pid"])


def test_a_load_balancers_life_without_a_running_controller(admin: Admin) -> None:
    with member("one") as one, member("two") as two:
        first, second = f"127.0.0.1:{one.protocol_port}", f"127.0.0.1:{two.protocol_port}"
        made = admin("lb", "create", "--name", "web", "--listener", "HTTP:80", "--member", first, "--json").data
        assert (made["name"], made["provisioning_status"], made["operation"]["state"]) == ("web", "ACTIVE", "SUCCEEDED")
        url = f"http://{place(made)}/"
        assert ask(url) == "one", "the amphora serves after the command has ended"

        added = admin.inside("member", "create", "web", second, "--weight", "5", "--json").data
        assert (added["address"], added["protocol_port"], added["weight"]) == ("127.0.0.1", two.protocol_port, 5)
        assert {ask(url) for _ in range(12)} == {"one", "two"}
        assert admin.inside("member", "set", first, "--weight", "0", "--json").data["weight"] == 0
        assert {ask(url) for _ in range(8)} == {"two"}
        admin.inside("member", "set-all", "web", first)
        assert {ask(url) for _ in range(4)} == {"one"}
        assert [m["protocol_port"] for m in admin.inside("member", "list", "web", "--json").data] == [one.protocol_port]

        monitor = admin.inside(
            "monitor", "create", "web", "HTTP:/health", "--delay", "30", "--check-timeout", "20", "--json"
        ).data
        assert (monitor["type"], monitor["url_path"], monitor["delay"]) == ("HTTP", "/health", 30)
        policy = admin.inside(
            "l7policy", "create", "web:80", "REDIRECT_TO_URL", "--redirect-url", "http://example.org/", "--rule",
            "PATH STARTS_WITH /old", "--name", "moved", "--json",
        ).data  # fmt: skip
        assert policy["rules"][0]["value"] == "/old"
        admin.inside("l7rule", "create", "moved", "HEADER", "yes", "--key", "X-Move", "--compare-type", "CONTAINS")
        admin.inside("l7policy", "set", "moved", "--disable")
        assert admin.inside("l7policy", "show", "moved", "--json").data["enabled"] is False
        admin.inside("listener", "create", "web", "TCP:5432", "--pool", "web")
        assert sorted(one["protocol_port"] for one in admin.inside("listener", "list", "--json").data) == [80, 5432]
        admin.inside("listener", "delete", "web:5432")
        change = ("lb", "set", "web", "--description", "ours", "--json")
        until(
            lambda: admin.inside(*change).data["operating_status"] == "ONLINE",
            "a command hears its amphora for as long as it works",
        )

        shown = admin.inside("lb", "show", "web").out
        assert "http://" in shown
        assert f"{first}  weight 1" in shown
        assert "policy moved" in shown
        said = admin.inside("why", "web").out
        assert "was ONLINE when it was last heard, but no controller runs on this state directory" in said
        assert "sending the configuration" in admin.inside("timeline", "web").out
        said = [json.loads(line)["name"] for line in admin.inside("events", "web", "--json").out.splitlines()]
        assert said[0] == "operation.accepted"
        assert "load_balancer.active" in said
        assert len(admin.inside("lb", "history", "web", "--json").data) > 5
        operations = admin.inside("operation", "list", "--json").data
        assert {row["state"] for row in operations} == {"SUCCEEDED"}
        assert admin.inside("operation", "show", operations[-1]["id"], "--json").data["journal"][0]["path"] == "plan"

        admin("lb", "delete", "web")
        assert admin.inside("lb", "list", "--json").data == []
        assert admin.inside("amphora", "list", "--json").data == []
        assert admin.inside("orphans", "--json").data == []
        admin.inside("lb", "delete", "web", "--if-exists")
        admin.inside("lb", "delete", "web", code=3)


def test_a_document_is_applied_and_again_nothing_is_done(admin: Admin, tmp_path: Path) -> None:
    issued = trustme.CA().issue_cert("www.example.org")
    (tmp_path / "www.pem").write_bytes(issued.private_key_and_cert_chain_pem.bytes())
    with member("one") as one:
        document = tmp_path / "web.toml"
        document.write_text(f"""
name = "web"
[[pools]]
name = "servers"
members = ["127.0.0.1:{one.protocol_port}"]
[[listeners]]
name = "secure"
protocol = "TERMINATED_HTTPS"
protocol_port = 443
default_pool = "servers"
tls_certificate_id = "file://{tmp_path}/www.pem"
""")
        made = admin("lb", "apply", "-f", str(document), "--json").data
        assert made["provisioning_status"] == "ACTIVE"
        assert admin.inside("lb", "apply", "-f", str(document), "--json").data["operation"] is None
        document.write_text(document.read_text().replace("TERMINATED_HTTPS", "HTTP").replace("tls_", "# tls_"))
        changed = admin.inside("lb", "apply", "-f", str(document), "--json").data
        assert [one["protocol"] for one in changed["listeners"]] == ["HTTP"]
        assert ask(f"http://{place(changed)}/") == "one"


def test_commands_beside_a_running_controller_are_its_clients(admin: Admin) -> None:
    with member("one") as one:
        with admin.up() as controller:
            refused = admin.inside("up", code=4)
            assert f"a controller already runs on {admin.state} (process {controller.pid})" in refused.err
            address = f"127.0.0.1:{one.protocol_port}"
            at_once = [
                admin.start(
                    "lb", "create", "--name", f"web-{n}", "--listener", "HTTP:80", "--member", address, "--json"
                )
                for n in (1, 2)
            ]
            made = []
            for process in at_once:
                out, err = process.communicate(timeout=PATIENCE)
                assert process.returncode == 0, err
                made.append(json.loads(out))
            assert {ask(f"http://{place(shown)}/") for shown in made} == {"one"}
            assert len({shown["vip"]["ip_address"] for shown in made}) == 2

            stored = admin.inside("lb", "delete", "web-2", "--no-wait", "--json").data
            assert stored["deleted"] is False
            until(lambda: len(admin.inside("lb", "list", "--json").data) == 1, "the controller deletes it")

            (old,) = amphorae(admin)
            os.kill(agent_pid(admin), signal.SIGKILL)
            until(lambda: list(found := amphorae(admin)) != [old] and list(found.values()) == ["ALLOCATED"], "healed")
            url = f"http://{place(admin('lb', 'show', 'web-1', '--json').data)}/"
            until(lambda: _answers(url), "served again")
            assert "amphora.lost" in admin.inside("events", "web-1").out

            admin("down")
            assert controller.wait(PATIENCE) == 0
            assert not _answers(url), "down ends the amphorae too"
        with admin.up():
            until(lambda: _answers(url), "what was asked for comes back, at the same address")
            assert admin("down", "--purge", "--json").data["deleted_load_balancers"] == [made[0]["id"]]
        assert admin.inside("lb", "list", "--json").data == []


def test_a_controller_that_was_killed_is_succeeded_and_traffic_never_stopped(admin: Admin) -> None:
    with member("one") as one:
        with admin.up() as controller:
            address = f"127.0.0.1:{one.protocol_port}"
            url = f"http://{place(admin('lb', 'create', '--name', 'web', '--listener', 'HTTP:80', '--member', address, '--json').data)}/"
            pid = agent_pid(admin)
            controller.kill()
            controller.wait()
        assert ask(url) == "one"
        stored = admin.inside("listener", "set", "web", "--connection-limit", "500", "--no-wait")
        assert "no controller runs on this state directory" in stored.err
        said = admin.inside("why", "web", "--json").data
        assert (said["situation"], said["status"]) == ("unclaimed", "PENDING_UPDATE")
        assert "octavia-admin up" in said["advice"][0]
        admin.inside("member", "set-all", "web", code=4)
        with admin.up():
            until(
                lambda: admin.inside("lb", "show", "web", "--json").data["provisioning_status"] == "ACTIVE", "taken up"
            )
            assert agent_pid(admin) == pid, "the amphora was adopted, not replaced"
            assert admin.inside("listener", "show", "web", "--json").data["connection_limit"] == 500
        assert ask(url) == "one"


def test_a_command_takes_over_when_the_controller_that_worked_for_it_ends(admin: Admin) -> None:
    admin.inside("db", "upgrade")
    with member("one") as one:
        address = f"127.0.0.1:{one.protocol_port}"
        with prepare_state(admin.state).lock():  # a controller that does nothing
            process = admin.start("lb", "create", "--name", "web", "--listener", "HTTP:80", "--member", address)
            until(lambda: admin.inside("lb", "list", "--json").data != [], "the wish is stored")
            late = admin.inside("lb", "delete", "web", "--timeout", "0.2", code=4)
            assert "octavia-admin why" in late.err
            (row,) = admin.inside("operation", "list", "--open", "--json").data
            said = admin.inside("operation", "release", row["id"], code=2)
            assert "ends as CANCELLED" in said.out
            assert "--yes" in said.err
            admin.inside("operation", "retry", row["id"], code=2)
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, err
        assert "ACTIVE" in out


def test_time_that_is_over_and_ctrl_c_leave_the_operation_to_go_on(admin: Admin) -> None:
    admin.inside("db", "upgrade")
    with member("one") as one:
        address = f"127.0.0.1:{one.protocol_port}"
        wish = ("lb", "create", "--listener", "HTTP:80", "--member", address)
        with prepare_state(admin.state).lock():
            late = admin.inside(*wish, "--name", "late", "--timeout", "0.3", code=6)
            assert "goes on; look with: octavia-admin why" in late.err
            interrupted = admin.start(*wish, "--name", "interrupted")
            assert interrupted.stderr is not None
            assert "interrupted was asked for" in interrupted.stderr.readline()
            interrupted.send_signal(signal.SIGINT)
            _, said = interrupted.communicate(timeout=PATIENCE)
            assert interrupted.returncode == 130, said
            assert "it goes on; look with: octavia-admin why" in said
        with admin.up():
            until(
                lambda: {row["provisioning_status"] for row in admin.inside("lb", "list", "--json").data} == {"ACTIVE"},
                "both are built",
            )
        follower = admin.start("events", "--follow", "--json")
        assert follower.stdout is not None
        assert json.loads(follower.stdout.readline())["name"] == "operation.accepted"
        follower.send_signal(signal.SIGINT)
        follower.communicate(timeout=PATIENCE)
        assert follower.returncode == 0  # that is how one ends what follows


def _answers(url: str) -> bool:
    try:
        return ask(url) == "one"
    except (OSError, http.client.HTTPException):
        return False
