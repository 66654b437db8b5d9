"""A member that is added at run time is the same as one that a process knows from its start: for each kind of server line
that controllers write, both are compared on real HAProxy - what its health check sends, and how it stands afterwards.
"""

from __future__ import annotations

import contextlib
import csv
import http.client
import io
import os
import re
import socket
import threading
from collections.abc import Iterator

import attrs
import pytest

from octavia_local.agent import changes
from tests.local_agent.rig import PATIENCE, Member, Rig, Server, config, until
from tests.local_agent.test_pure import compared
from tests.support.haproxies import chosen

CHECK = "check inter 100ms fall 1 rise 1"
HTTP = ("option httpchk GET /health",)
HTTP_1_1 = ("option httpchk GET /health HTTP/1.1", "http-check send hdr Host %[bc_dst]:%[bc_dst_port]")


@attrs.frozen
class Kind:
    """A pool and the words of its members.

    Attributes:
        name: of the backend.
        words: of each server line behind its address; {elsewhere} is the port of another program.
        lines: of the backend.
    """

    name: str
    words: str
    lines: tuple[str, ...] = ()

    def section(self, members: dict[str, int], elsewhere: int) -> str:
        """The backend."""
        words = self.words.format(elsewhere=elsewhere)
        servers = [f"    server {name} 127.0.0.1:{port} {words}" for name, port in members.items()]
        settings = ("mode http", "balance roundrobin", "timeout connect 1s", "timeout server 5s", "timeout check 1s")
        return "\n".join([f"backend {self.name}", *(f"    {line}" for line in (*settings, *self.lines)), *servers, ""])


PLAIN = [
    Kind("plain", "weight 1"),
    Kind("heavy", "weight 200"),
    Kind("drained", "weight 0"),
    Kind("backup", "weight 1 backup", ("option allbackups",)),
    Kind("disabled", "weight 1 disabled"),
    Kind("tcp", f"weight 1 {CHECK}"),
    Kind("tcp-drained", f"weight 0 {CHECK}"),
    Kind("tcp-backup", f"weight 1 {CHECK} backup", ("option allbackups",)),
    Kind("http", f"weight 1 {CHECK}", HTTP),
    Kind("http-port", f"weight 1 {CHECK} port {{elsewhere}}", HTTP),
    Kind("http-address", f"weight 1 {CHECK} addr 127.0.0.3 port {{elsewhere}}", HTTP),
    Kind("http-named", f"weight 1 {CHECK}", HTTP_1_1),
    Kind("https", f"weight 1 check-ssl verify none {CHECK}", HTTP),
    Kind("https-alpn", f"weight 1 check-ssl verify none check-alpn h2,http/1.1 {CHECK}", HTTP),
    Kind("https-port", f"weight 1 check-ssl verify none {CHECK} port {{elsewhere}}", HTTP),
    Kind("tls-hello", f"weight 1 {CHECK}", ("option ssl-hello-chk",)),
    Kind("proxy", f"weight 1 {CHECK} send-proxy", HTTP),
    Kind("proxy-tcp", f"weight 1 {CHECK} send-proxy"),
    Kind("proxy-v2", f"weight 1 {CHECK} send-proxy-v2", HTTP),
    Kind("proxy-v2-tls", f"weight 1 {CHECK} send-proxy-v2-ssl-cn", HTTP),
    Kind("proxy-https", f"weight 1 check-ssl verify none {CHECK} send-proxy", HTTP),
    Kind("proxy-elsewhere", f"weight 1 {CHECK} port {{elsewhere}} send-proxy", HTTP),
    Kind("proxy-address", f"weight 1 {CHECK} addr 127.0.0.3 send-proxy-v2", HTTP),
    Kind("proxy-unchecked", "weight 1 send-proxy-v2"),
]
"""What every HAProxy from 2.6 on adds at run time."""
COOKIE = [Kind("cookie", f"weight 1 {CHECK} cookie sweet", (*HTTP, "cookie SRV insert indirect nocache"))]
"""Where 2.6 wants another process."""
RELOADED = [
    Kind("checked-disabled", f"weight 1 {CHECK} disabled"),
    Kind("tls", "weight 1 ssl verify none"),
    Kind("tls-checked", f"weight 1 {CHECK} ssl verify none", HTTP),
    Kind("looked-up", "weight 1 resolvers none init-addr none"),
    Kind("slow", f"weight 1 {CHECK} slowstart 5s"),
    Kind("limited", "weight 1 maxconn 5"),
    Kind("agent", "weight 1 agent-check agent-port {elsewhere} agent-inter 100ms"),
    Kind("check-proxy", f"weight 1 {CHECK} check-send-proxy", HTTP),
    Kind("default", "weight 1", (f"default-server {CHECK}",)),
]
"""Never at run time: nobody has made sure that it would be the same."""


class Recorder:
    """A program on a port of its own that keeps the first bytes of each connection, and says that all is well."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=100)
        self._elsewhere = socket.create_server(("127.0.0.3", self.port))
        self.heard: list[str] = []
        for one in (self._socket, self._elsewhere):
            threading.Thread(target=self._serve, args=(one,), daemon=True).start()

    @property
    def port(self) -> int:
        """Where it is, on 127.0.0.1 and 127.0.0.3."""
        return int(self._socket.getsockname()[1])

    def close(self) -> None:
        """Answer nobody any more."""
        for one in (self._socket, self._elsewhere):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _serve(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        said = b""
        with connection, contextlib.suppress(OSError):
            connection.settimeout(PATIENCE)
            while (part := connection.recv(4096)) and b"GET" not in (said := said + part) and b"\x16\x03" not in said:
                pass
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n")
        self.heard.append(shape(said))


def shape(said: bytes) -> str:
    """What a check has said, without what is of one connection only."""
    found = []
    for name, pattern in {
        "PROXY": rb"^PROXY [^\r]*\r\n",
        "PROXY v2": rb"^\r\n\r\n\x00\r\nQUIT\n",
        "TLS": rb"\x16\x03",
        "ALPN": rb"\x02h2\x08http/1.1",
        "GET": rb"GET /health",
    }.items():
        if re.search(pattern, said):
            found.append(name)
    if named := re.search(rb"\r\n[Hh]ost: (\S+)", said):
        found.append(named[1].decode())
    return " ".join(found)


def whole(heard: list[str]) -> set[str]:
    """Without what another one continues: a check that a process did not finish, because it ended or stood still."""
    words = {tuple(each.split()) for each in heard}
    return {" ".join(each) for each in words if not any(more[: len(each)] == each != more for more in words)}


def ask_from(rig: Rig, source: str) -> str:
    """Who answers a client of that address."""
    connection = http.client.HTTPConnection(rig.vip, 8080, timeout=PATIENCE, source_address=(source, 0))
    with contextlib.closing(connection):
        connection.request("GET", "/", headers={"Connection": "close"})
        return connection.getresponse().read().decode()


def ask(rig: Rig, command: str) -> str:
    """What the newest HAProxy answers on its stats socket, whose path is too long for an address."""
    folder = rig.root / f"var/lib/octavia/{rig.lb}/run"
    newest = max(folder.glob("stats-*.sock"), key=lambda path: int(path.stem.rpartition("-")[2]))
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(f"/proc/self/fd/{descriptor}/{newest.name}")
            connection.sendall(command.encode() + b"\n")
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    finally:
        os.close(descriptor)


STATES = ("srv_op_state", "srv_uweight", "srv_iweight", "srv_port", "srv_use_ssl", "srv_check_port", "srv_check_addr",
          "srv_agent_state", "srv_agent_port", "bk_f_forced_id")  # fmt: skip
STATS = ("status", "weight", "act", "bck", "check_status", "check_rise", "check_fall", "check_health", "slim", "cookie",
         "throttle", "agent_status")  # fmt: skip


def standing(rig: Rig, name: str) -> dict[str, dict[str, str]]:
    """How the member of that name stands in each backend."""
    found: dict[str, dict[str, str]] = {}
    columns: list[str] = []
    for line in ask(rig, "show servers state").splitlines():
        if line.startswith("# "):
            columns = line[2:].split()
        row = dict(zip(columns, line.split(), strict=False))
        if row.get("srv_name") == name:
            found[row["be_name"]] = {key: row[key] for key in STATES if key in row}
            found[row["be_name"]]["maintenance"] = str(int(row["srv_admin_state"]) & 1)
    for row in csv.DictReader(io.StringIO(ask(rig, "show stat").removeprefix("# "))):
        if row["svname"] == name:
            found[row["pxname"]] |= {
                key: row[key].removeprefix("* ") for key in STATS if key in row
            }  # "*": one goes on
    return found


@contextlib.contextmanager
def recorders(kinds: list[Kind]) -> Iterator[tuple[dict[str, Recorder], dict[str, Recorder]]]:
    """For each kind: the added member, and what is elsewhere."""
    with contextlib.ExitStack() as stack:

        def made() -> dict[str, Recorder]:
            found = {kind.name: Recorder() for kind in kinds}
            for each in found.values():
                stack.callback(each.close)
            return found

        yield made(), made()


def compare(rig: Rig, kinds: list[Kind]) -> bool:
    """Add a member to each kind of pool, then take another process and compare; whether the first process had it, too."""
    with recorders(kinds) as (added, elsewhere), recorders(kinds[:1]) as (first, _):
        (old,) = first.values()

        def push(*names: str, limit: int = 1000) -> None:
            text = config(rig, [], frontend=[f"maxconn {limit}"])
            for kind in kinds:
                ports = {"first": old.port, "later": added[kind.name].port}
                text += kind.section({name: ports[name] for name in names}, elsewhere[kind.name].port)
            answer = rig.push(text)
            assert answer.status == 202, answer.body

        def checked(stands: dict[str, dict[str, str]]) -> bool:
            """Each several times; a bare TCP check says nothing, and not even its connection is accepted."""
            return all(
                len(added[kind.name].heard + elsewhere[kind.name].heard) > 2
                or (stands[kind.name]["check_status"] == "L4OK" and "send-proxy" not in kind.words)
                for kind in kinds
                if "check inter" in kind.words
            )

        def look() -> dict[str, tuple[dict[str, str], set[str], set[str]]]:
            """How it stands after some checks of each, and what these have said to it and elsewhere."""
            found = dict[str, dict[str, str]]()

            def forget() -> None:
                for each in (*added.values(), *elsewhere.values()):
                    each.heard.clear()

            def settled() -> bool:
                nonlocal found
                found = standing(rig, "later")
                if found != standing(rig, "later"):
                    return False  # it is changing
                if any(stand["check_status"].endswith("TOUT") for stand in found.values()):
                    forget()  # the machine is busy: what is cut off in the middle is not what was meant
                    return False
                return checked(found)

            forget()
            until(settled, "checks of each")
            return {name: (found[name], whole(added[name].heard), whole(elsewhere[name].heard)) for name in found}

        push("first")
        before = rig.haproxies()
        push("first", "later")
        together = rig.haproxies() == before
        at_run_time = look()
        push("first", "later", limit=999)
        until(lambda: rig.haproxies() != before and len(rig.haproxies()) == 1, "another process, alone")
        afterwards = look()
        assert at_run_time.keys() == {kind.name for kind in kinds}
        for name, found in at_run_time.items():
            assert (name, *found) == (name, *afterwards[name])
        return together


def test_a_member_added_at_run_time_stands_and_is_checked_as_after_a_reload(rig: Rig) -> None:
    assert compare(rig, PLAIN)


def test_a_member_with_a_cookie_does_too(rig: Rig) -> None:
    assert compare(rig, COOKIE) or chosen().order < (3, 0)


@pytest.mark.parametrize("kind", RELOADED, ids=lambda kind: kind.name)
def test_words_that_might_mean_something_else_at_run_time_take_a_reload(kind: Kind) -> None:
    alone, both = ({"first": 1}, {"first": 1, "later": 2})
    contents = [compared(kind.section(members, 3)) for members in (alone, both)]
    assert changes.compare(contents[0], contents[1], ()) is None


def test_clients_of_members_that_come_back_at_run_time_in_another_order_are_theirs_again(rig: Rig) -> None:
    """HAProxy gives the number of one that has gone to the next that comes; clients are known by names."""
    backend = ["balance roundrobin", "stick-table type ipv6 size 10k", "stick on src", "option httpclose"]
    sources = [f"127.9.7.{n}" for n in range(1, 7)]
    with Member("a") as a, Member("b") as b, Member("c") as c:
        servers = {each.name: Server(each.name, each.port) for each in (a, b, c)}

        def push(names: str) -> None:
            assert rig.push(config(rig, [servers[name] for name in names], backend=backend)).status == 202

        push("abc")
        before = rig.haproxies()
        known = {source: ask_from(rig, source) for source in sources}
        assert set(known.values()) == {"a", "b", "c"}
        push("c")
        push("cba")
        assert rig.haproxies() == before
        assert {source: ask_from(rig, source) for source in reversed(sources)} == known
