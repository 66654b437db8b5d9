"""From the configuration a controller sends to the one that is run: pure, text in, text out.

The received bytes are kept as they came; this makes the copy that HAProxy reads. Line by line:
- `bind ADDRESS:PORT` becomes `bind fd@N`, a socket the agent holds;
- every file becomes a path relative to HAProxy's working directory, where the agent puts a copy. The certificates of
  a crt-list get names by their place in the list (`…0.pem`, `…1.pem`), so a renewed one is new content under
  the same name, which the Runtime API can take over;
- `daemon`, `user`, `group`, `log` and `stats socket` become empty lines: the agent knows better;
- a global directive that is not on the list below is refused;
- stick tables of a single amphora get a `peers` section behind everything else, so that they outlive a reload: a HAProxy that
  is told to finish tells what is in them to the one that listens on the same socket, by that name. The name is a secret, since
  whoever knows it is believed.

Line numbers stay, so that HAProxy's own complaints name the lines the controller wrote.
"""

from __future__ import annotations

import posixpath
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from octavia_local.agent.own import OWN, is_own
from octavia_local.agent.sockets import Bind
from octavia_local.agent.syntax import Line, Section, Word, quoted, read, texts, words
from octavia_local.agent.wire import Refusal

__all__ = ["NOBODY", "PING_SCRIPT", "STATE_FILE", "TABLES", "Copy", "CrtList", "Document", "Limits", "Rendered"]

STATE_FILE = "servers-state"
"""Name of the server state file in HAProxy's working directory."""

TABLES = "octavia-tables"
"""Name of the `peers` section that is added, and label of its socket."""
NOBODY, _NOWHERE = "nobody", "127.0.0.1:1"
"""Another peer, so that somebody can say that nobody has more (`octavia_local.agent.tables`); no user's program listens there."""

_DROPPED = frozenset({"daemon", "user", "group", "log", "log-tag", "log-send-hostname", "ulimit-n"})
_PASSED = frozenset({
    "busy-polling", "cpu-map", "description", "hard-stop-after", "insecure-fork-wanted", "maxcompcpuusage",
    "maxcomprate", "maxconnrate", "maxpipes", "maxsessrate", "maxsslconn", "maxsslrate", "maxzlibmem", "nbthread",
    "no", "node", "noepoll", "nogetaddrinfo", "nopoll", "noreuseport", "nosplice", "spread-checks",
    "ssl-default-bind-ciphers", "ssl-default-bind-ciphersuites", "ssl-default-bind-curves",
    "ssl-default-bind-options", "ssl-default-server-ciphers", "ssl-default-server-ciphersuites",
    "ssl-default-server-options", "ssl-server-verify", "strict-limits",
})  # fmt: skip
_FILE_KEYWORDS = frozenset({"ca-file", "ca-verify-file", "crl-file", "crt"})
_NAMES_FILES = _FILE_KEYWORDS | {"crt-list"}
_WITH_FILES = frozenset({"bind", "server", "default-server"})
"""Lines on which those may stand."""
_MOST_TLS_SESSIONS = 20_000
"""HAProxy's default. Controllers ask for a share of the machine's memory, which here many amphorae have together."""
_PROXIES = frozenset({"frontend", "backend", "listen", "defaults"})
_BEHIND = 0
"""Number of a line that is not there: lines are counted from 1."""
_PROMETHEUS_FRONTEND, _PROMETHEUS_SERVER = "prometheus-exporter-internal-endpoint", "prometheus-internal"
_PING = (
    "line {}: PING health monitors do not work on a local amphora on loopback: they would ask this machine itself, which always "
    "answers; choose a TCP or HTTP monitor, or amphorae with network namespaces of their own"
)
_NO_ICMP = (
    "line {}: PING health monitors do not work here: this amphora may not send ICMP; choose a TCP or HTTP monitor"
)
PING_SCRIPT = "ping.sh"
"""The external check, beside HAProxy's working directory, which a change at run time replaces. No other program is ever run."""


class Limits(NamedTuple):
    """What this machine gives.

    Attributes:
        maxconn: most connections that the limit of open files allows.
        internal_host: address for the internal Prometheus endpoint, which is 127.0.0.1:9101 in an image.
        namespace: whether the amphora has a network namespace of its own, and so IPv6, and a loopback nobody else is on.
        icmp: whether it may send ICMP.
    """

    maxconn: int
    internal_host: str
    namespace: bool = False
    icmp: bool = False

    def no_ping(self) -> str | None:
        """Why there are no PING monitors here."""
        if not self.namespace:
            return _PING
        return None if self.icmp else _NO_ICMP


class Copy(NamedTuple):
    """A file to be put into HAProxy's working directory: from the image's path, under this relative name."""

    source: str
    name: str


class CrtList(NamedTuple):
    """A crt-list: its own name there, its text there, and the certificates it names."""

    name: str
    text: str
    certificates: tuple[Copy, ...]


class Rendered(NamedTuple):
    """What HAProxy is run with.

    Attributes:
        text: the configuration.
        sections: the same, read.
        files: files of the image, unchanged.
        crt_lists: crt-lists and their certificates.
        pings: whether `PING_SCRIPT` has to be there.
    """

    text: str
    sections: tuple[Section, ...]
    files: tuple[Copy, ...]
    crt_lists: tuple[CrtList, ...]
    pings: bool = False

    @property
    def certificates(self) -> dict[str, str]:
        """Relative name to image path, of everything that the Runtime API can replace as a certificate."""
        return {copy.name: copy.source for listed in self.crt_lists for copy in listed.certificates}


class Document:
    """A configuration as it was received.

    Args:
        text: the configuration.
        limits: what this machine gives.

    Raises:
        Refusal: 400, something in it cannot be run here; the details name it in one sentence.
    """

    def __init__(self, text: str, limits: Limits) -> None:
        self._limits = limits
        self.sections = read(text)
        self._binds: dict[int, Bind] = {}
        for section in self.sections:
            if section.kind == "" and any(line.texts for line in section.lines):
                line = next(line for line in section.lines if line.texts)
                raise Refusal(400, "Invalid request", f"line {line.number}: {line.word(0)!r} is outside of any section")
            for line in section.lines:
                self._judge(section, line)
        if self._has_tables and all(section.kind != "peers" for section in self.sections):
            self._binds[_BEHIND] = Bind("127.0.0.1", 0, TABLES)

    @property
    def _has_tables(self) -> bool:
        lines = (line for section in self.sections if section.kind in _PROXIES for line in section.lines)
        return any(line.word(0) == "stick-table" for line in lines)

    @property
    def tables(self) -> Bind | None:
        """Where HAProxies tell the next one what is in their stick tables; None when `render` adds no `peers` section."""
        return self._binds.get(_BEHIND)

    @property
    def binds(self) -> tuple[Bind, ...]:
        """Where it wants to be reached, each once, in order."""
        return tuple(dict.fromkeys(self._binds.values()))

    @property
    def listeners(self) -> tuple[tuple[str, str], ...]:
        """(frontend name, type) of each listener: HTTP, TCP or TERMINATED_HTTPS; without the Prometheus internals."""
        found = []
        for section in self.sections:
            if section.kind == "frontend" and "prometheus" not in section.name:
                mode = next((line.word(1).upper() for line in section.lines if line.word(0) == "mode"), "TCP")
                tls = any(line.word(0) == "bind" and "crt-list" in line.texts for line in section.lines)
                found.append((section.name, "TERMINATED_HTTPS" if tls else mode))
        return tuple(found)

    def render(
        self,
        descriptor: Callable[[Bind], int],
        address: Callable[[Bind], tuple[str, int]],
        content: Callable[[str], bytes],
        ping: str = f"/{PING_SCRIPT}",
        tables: str = "",
    ) -> Rendered:
        """The copy to be run.

        Args:
            descriptor: number of the held socket of a bind.
            address: where that socket really listens.
            content: the bytes of a file of the image.
            ping: absolute path of the external check.
            tables: name by which a HAProxy knows the next one; it has to run under it.

        Raises:
            Refusal: 400, a file that it names is not there or has the wrong form.
        """
        rendering = _Rendering(self._binds, descriptor, address, content, ping)
        return rendering.document(self.sections, self._limits, tables)

    def _judge(self, section: Section, line: Line) -> None:
        first = line.word(0)
        if first == "external-check" or (first == "option" and line.word(1) == "external-check"):
            why_not = self._limits.no_ping()
            if why_not is not None:
                raise Refusal(400, "Invalid request", why_not.format(line.number))
            if section.kind != "global" and first == "external-check" and line.word(1) != "command":
                raise Refusal(400, "Invalid request", f"line {line.number}: of external checks, only PING is run here")
        elif section.kind == "global":
            _judge_global(line)
        elif first == "server" and self._limits.namespace:
            own = _own_place(line)
            if own and line.word(1) != _PROMETHEUS_SERVER:
                raise Refusal(400, "Invalid request", f"line {line.number}: {OWN.format(own)}")
        elif first == "bind" and section.kind in ("frontend", "listen"):
            if section.name == _PROMETHEUS_FRONTEND:
                self._binds[line.number] = Bind(self._limits.internal_host, 0, _PROMETHEUS_FRONTEND)
            else:
                place = _place(line, ipv6=self._limits.namespace)
                if place in self._binds.values():
                    raise Refusal(400, "Invalid request", f"line {line.number}: {place} is bound a second time")
                self._binds[line.number] = place


def _as(raw: str, line: Line) -> Line:
    """The line with that text in its place; nearly all stay as they are."""
    return line if raw is line.raw else Line(raw, texts(raw), line.number)


def _own_place(line: Line) -> str:
    """Where a server line leads into the amphora itself, for traffic or for checks; empty: nowhere."""
    if is_own(line.word(2).rpartition(":")[0].strip("[]")):
        return line.word(2)
    checked = line.word(line.texts.index("addr") + 1) if "addr" in line.texts else ""
    return checked if is_own(checked.strip("[]")) else ""


def _judge_global(line: Line) -> None:
    first = line.word(0)
    known = (
        not first
        or first in _DROPPED
        or first in _PASSED
        or first in ("maxconn", "server-state-file")
        or (first == "stats" and line.word(1) in ("socket", "timeout", "maxconn"))
        or (first.startswith("tune.") and not first.startswith("tune.lua"))
    )
    if not known:
        raise Refusal(
            400,
            "Invalid request",
            f"line {line.number}: the global directive {first!r} is not allowed on a local amphora",
        )


def _place(line: Line, *, ipv6: bool) -> Bind:
    """The one address and port of a bind line."""
    text = line.word(1)
    host, colon, port = text.rpartition(":")
    if ipv6 and _is_ipv6(host.strip("[]")) and port.isascii() and port.isdigit() and 0 < int(port) < 65536:
        return Bind(host.strip("[]"), int(port))
    if not ipv6 and (":" in host or "[" in host):
        raise Refusal(
            400,
            "Invalid request",
            f"line {line.number}: {text} is an IPv6 address; a local amphora has IPv4 VIPs only",
        )
    if not colon or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536 or not _is_ipv4(host):
        raise Refusal(400, "Invalid request", f"line {line.number}: {text!r} is not an IPv4 address and a port")
    return Bind("0.0.0.0" if host in ("", "*") else host, int(port))  # noqa: S104 - as asked for


def _is_ipv6(host: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6, host)
    except (OSError, ValueError):
        return False
    return True


def _is_ipv4(host: str) -> bool:
    parts = host.split(".")
    return host in ("", "*") or (len(parts) == 4 and all(p.isascii() and p.isdigit() and int(p) < 256 for p in parts))


class _Rendering:
    def __init__(
        self,
        binds: Mapping[int, Bind],
        descriptor: Callable[[Bind], int],
        address: Callable[[Bind], tuple[str, int]],
        content: Callable[[str], bytes],
        ping: str,
    ) -> None:
        self._binds, self._descriptor, self._address, self._content = binds, descriptor, address, content
        self._ping = ping
        self._files: dict[str, Copy] = {}
        self._crt_lists: dict[str, CrtList] = {}
        self._pings = False

    def document(self, sections: Iterable[Section], limits: Limits, tables: str) -> Rendered:
        made: list[Section] = []
        for section in sections:
            lines = section.lines
            if section.kind == "global":
                lines = tuple([_as(self._global(line, limits), line) for line in lines])
            elif section.kind in _PROXIES:
                lines = tuple([_as(self._proxy(line), line) if line.texts else line for line in lines])
            made.append(section._replace(lines=lines))
        if _BEHIND in self._binds:
            own = self._descriptor(self._binds[_BEHIND])
            behind = (
                f"peers {TABLES}",
                f"    bind fd@{own}",
                f"    server {tables}",
                f"    server {NOBODY} {_NOWHERE}",
                "",
            )
            made += read("\n".join(behind))
        out = [line.raw for section in made for line in (section.header, *section.lines) if line is not None]
        text = "\n".join(out)
        return Rendered(text, tuple(made), tuple(self._files.values()), tuple(self._crt_lists.values()), self._pings)

    def _global(self, line: Line, limits: Limits) -> str:
        first = line.word(0)
        if first in _DROPPED or (first == "stats" and line.word(1) == "socket"):
            return ""
        if first == "server-state-file":
            return line.replaced({1: STATE_FILE})
        most = {"maxconn": limits.maxconn, "tune.ssl.cachesize": _MOST_TLS_SESSIONS}.get(first)
        if most is not None and line.word(1).isdigit():
            return line.replaced({1: str(min(int(line.word(1)), most))})
        return line.raw

    def _proxy(self, line: Line) -> str:
        changes: dict[int, str] = {}
        first = line.word(0)
        if first == "log" and line.word(1) != "global":
            return ""
        if first == "stick-table" and _BEHIND in self._binds:
            end = line.words[-1].end
            return f"{line.raw[:end]} peers {TABLES}{line.raw[end:]}"
        if first == "external-check":
            changes[2], self._pings = quoted(self._ping), True
        if line.number in self._binds:
            changes[1] = f"fd@{self._descriptor(self._binds[line.number])}"
        if first == "server" and line.word(1) == _PROMETHEUS_SERVER:
            internal = next((bind for bind in self._binds.values() if bind.label == _PROMETHEUS_FRONTEND), None)
            if internal is not None:
                host, port = self._address(internal)
                changes[2] = f"{host}:{port}"
        if first in _WITH_FILES and not _NAMES_FILES.isdisjoint(line.texts):
            for index in range(2, len(line.texts) - 1):
                keyword, path = line.word(index), line.word(index + 1)
                if keyword == "crt-list":
                    changes[index + 1] = quoted(self._crt_list(path, line.number))
                elif keyword in _FILE_KEYWORDS and not path.startswith("@"):
                    changes[index + 1] = quoted(self._file(path, line.number))
        elif first == "errorfile":
            changes[2] = quoted(self._file(line.word(2), line.number))
        return line.replaced(changes)

    def _file(self, path: str, number: int) -> str:
        self._read(path, number)
        name = "files/" + posixpath.normpath(path).lstrip("/").replace("/", "+")
        self._files.setdefault(name, Copy(path, name))
        return name

    def _crt_list(self, path: str, number: int) -> str:
        stem = "lists/" + posixpath.normpath(path).lstrip("/").replace("/", "+").removesuffix(".pem")
        if stem not in self._crt_lists:
            copies: list[Copy] = []
            out: list[str] = []
            for raw in self._read(path, number).decode("utf-8", "replace").splitlines():
                entry: tuple[Word, ...] = words(raw)
                if not entry:
                    continue
                self._read(entry[0].text, number)
                copies.append(Copy(entry[0].text, f"{stem}-{len(copies)}.pem"))
                out.append(quoted(copies[-1].name) + raw[entry[0].end :])
            self._crt_lists[stem] = CrtList(f"{stem}.list", "\n".join(out) + "\n", tuple(copies))
        return self._crt_lists[stem].name

    def _read(self, path: str, number: int) -> bytes:
        try:
            return self._content(path)
        except ValueError as error:
            raise Refusal(400, "Invalid request", f"line {number}: {error}") from error
        except FileNotFoundError as error:
            raise Refusal(
                400, "Invalid request", f"line {number}: there is no file {path} on this amphora; upload it first"
            ) from error
