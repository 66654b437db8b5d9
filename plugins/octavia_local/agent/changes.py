"""What must be done so that a running HAProxy does what a new configuration says: Runtime API commands, or a reload. Pure.

Rule 1: only weights, members' states, members that come or go, and the contents of certificates are changed at run
time; any other difference is a reload. Rule 2: a keyword that is not known to work in `add server` is a reload, and so is a
member with an external check (PING): HAProxy prepares those at its start only, and calls every later one down (2.6 to 3.2).
So is a checked member that comes disabled: added at run time, it would be checked nevertheless.
Order of steps: certificates, then members that come, then changes, then members that go, so no backend is ever empty
in between.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Collection, Mapping
from typing import NamedTuple

from octavia_local.agent.syntax import Line, Section
from octavia_local.agent.translate import Rendered

__all__ = [
    "AddServer",
    "Content",
    "RemoveServer",
    "ServerLine",
    "SetCertificate",
    "SetState",
    "SetWeight",
    "Step",
    "compare",
    "content_of",
    "needs_no_check",
]

_DEFAULT_WEIGHT = 1
_HIGHEST_WEIGHT = 256
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_FLAGS = frozenset({"check", "backup", "disabled", "send-proxy", "send-proxy-v2", "send-proxy-v2-ssl-cn", "check-ssl"})
_WITH_VALUE = frozenset({"weight", "inter", "fall", "rise", "addr", "port", "verify", "check-alpn", "cookie"})
_NEEDS_TLS_FILES = frozenset({"required"})  # as the value of `verify`


class ServerLine(NamedTuple):
    """One member of a backend as its configuration says.

    Attributes:
        path: `backend/server`, as the Runtime API calls it.
        address: address and port.
        weight: 0 to 256.
        disabled: administratively out.
        checked: has a health monitor.
        rest: all other words of the line; None when one of them, or its check, is not known to work in `add server`.
        words: the same, known or not.
    """

    path: str
    address: str
    weight: int
    disabled: bool
    checked: bool
    rest: tuple[str, ...] | None
    words: tuple[str, ...]

    def same(self, other: ServerLine) -> bool:
        """Whether it is the same member, whatever its weight and state."""
        return self.address == other.address and self.words == other.words


class AddServer(NamedTuple):
    """A member comes."""

    server: ServerLine


class RemoveServer(NamedTuple):
    """A member goes; the connections it has end by themselves."""

    path: str


class SetWeight(NamedTuple):
    """A member's weight changes."""

    path: str
    weight: int


class SetState(NamedTuple):
    """A member is taken out or comes back."""

    path: str
    disabled: bool


class SetCertificate(NamedTuple):
    """A certificate has new contents under the same name."""

    name: str


Step = AddServer | RemoveServer | SetWeight | SetState | SetCertificate


class Content(NamedTuple):
    """A configuration as far as it is compared with another one. Made once for each: there may be thousands of members.

    Attributes:
        text: what HAProxy reads.
        members: those of all backends, by path, without the Prometheus internals.
        lines: how many lines tell of these; more than members when two have one name.
        skeleton: everything else, in order: what must be equal.
        names: of the files and crt-lists, with the texts of these.
        certificates: names of files that the Runtime API can replace.
    """

    text: str
    members: Mapping[str, ServerLine]
    lines: int
    skeleton: tuple[object, ...]
    names: tuple[object, ...]
    certificates: frozenset[str]


def content_of(rendered: Rendered) -> Content:
    """What of a configuration is compared."""
    members: dict[str, ServerLine] = {}
    count = 0
    shared: dict[tuple[str, ...], _Rest] = {}
    fixed = any(section.kind == "defaults" and _sets_servers(section) for section in rendered.sections)
    for section in rendered.sections:
        if section.kind not in ("backend", "listen") or "prometheus" in section.name:
            continue
        external = any(line.word(0) == "option" and line.word(1) == "external-check" for line in section.lines)
        for line in section.lines:
            if line.word(0) == "server":
                server = _server(section.name, line, shared, external=external)
                members[server.path] = server
                count += 1
    return Content(
        rendered.text,
        members,
        count,
        tuple([_skeleton(section, fixed=fixed) for section in rendered.sections]),
        _names(rendered),
        frozenset(rendered.certificates),
    )


def compare(running: Content, wanted: Content, changed_files: Collection[str]) -> tuple[Step, ...] | None:
    """The steps from `running` to `wanted`; empty when they do the same; None when a reload is needed.

    Args:
        running: what the process does now.
        wanted: what it shall do.
        changed_files: names of copied files whose contents differ.
    """
    if not wanted.certificates.issuperset(changed_files) or running.names != wanted.names:
        return None
    if running.skeleton != wanted.skeleton:
        return None
    old, new = running.members, wanted.members
    steps: list[Step] = [SetCertificate(name) for name in sorted(changed_files)]
    changes: list[Step] = []
    for path, server in new.items():
        before = old.get(path)
        if before == server:
            continue
        if before is None:
            if server.rest is None or (server.checked and server.disabled):
                return None
            steps.append(AddServer(server))
        elif not before.same(server):
            return None
        else:
            if before.weight != server.weight:
                changes.append(SetWeight(path, server.weight))
            if before.disabled != server.disabled:
                changes.append(SetState(path, server.disabled))
    gone: list[Step] = [RemoveServer(path) for path in old if path not in new]
    return (*steps, *changes, *gone)


def needs_no_check(running: Content, wanted: Content, steps: Collection[Step]) -> bool:
    """True when HAProxy accepts `wanted` for certain, because it runs `running` and the steps add nothing new to judge.

    A start of HAProxy for its `-c` takes longer than all the rest of a change of weight.
    """
    if wanted.lines != len(wanted.members):
        return False  # two of one name
    alike: set[tuple[str, tuple[str, ...] | None]] = set()
    if any(isinstance(step, AddServer) for step in steps):
        alike = {(path.rpartition("/")[0], server.rest) for path, server in running.members.items()}
    return all(_is_certain(step, alike, wanted.text) for step in steps)


def _is_certain(step: Step, alike: Collection[tuple[str, tuple[str, ...] | None]], text: str) -> bool:
    match step:
        case SetState():
            return True
        case SetWeight(weight=weight):
            return 0 <= weight <= _HIGHEST_WEIGHT
        case RemoveServer(path=path):
            return path.rpartition("/")[2] not in text  # so nothing refers to it
        case AddServer(server=server):
            backend, _, name = server.path.rpartition("/")
            return (
                server.rest is not None
                and (backend, server.rest) in alike
                and 0 <= server.weight <= _HIGHEST_WEIGHT
                and _PLAIN_NAME.fullmatch(name) is not None
                and _is_address(server.address)
            )
    return False


def _is_address(text: str) -> bool:
    """An IPv4 address or IPv6 address in brackets, with a port."""
    host, _, port = text.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") and host.endswith("]") else socket.AF_INET
    try:
        socket.inet_pton(family, host.strip("[]"))
    except OSError:
        return False
    return port.isascii() and port.isdigit() and 0 < int(port) < 65536


def _names(rendered: Rendered) -> tuple[object, ...]:
    lists = tuple((listed.name, listed.text) for listed in rendered.crt_lists)
    return (*lists, *sorted(copy.name for copy in rendered.files))


def _sets_servers(section: Section) -> bool:
    return any(line.word(0) == "default-server" for line in section.lines)


def _skeleton(section: Section, *, fixed: bool) -> tuple[object, ...]:
    """The section without its members: what must be equal. A backend with `default-server` keeps its members in it,
    since dynamic servers ignore that directive. So does each (`fixed`) when it stands in `defaults`.
    """
    lines = [line.texts for line in section.lines if line.texts]
    fixed = fixed or _sets_servers(section) or "prometheus" in section.name
    if section.kind in ("backend", "listen") and not fixed:
        lines = [line for line in lines if line[0] != "server"]
    return (section.kind, section.name, tuple(lines))


class _Rest(NamedTuple):
    """What stands behind a member's address. Most members of a pool have it in common, so it is read and kept once."""

    weight: int
    disabled: bool
    checked: bool
    known: bool
    words: tuple[str, ...]


def _server(backend: str, line: Line, shared: dict[tuple[str, ...], _Rest], *, external: bool) -> ServerLine:
    texts = line.texts
    rest = shared.get(texts[3:])
    if rest is None:
        rest = shared[texts[3:]] = _rest(texts[3:])
    return ServerLine(
        path=f"{backend}/{texts[1] if len(texts) > 1 else ''}",
        address=texts[2] if len(texts) > 2 else "",
        weight=rest.weight,
        disabled=rest.disabled,
        checked=rest.checked,
        rest=rest.words if rest.known and not (external and rest.checked) else None,
        words=rest.words,
    )


def _rest(texts: tuple[str, ...]) -> _Rest:
    weight, disabled, known = _DEFAULT_WEIGHT, False, True
    rest: list[str] = []
    position = 0
    while position < len(texts):
        keyword = texts[position]
        value = texts[position + 1] if position + 1 < len(texts) else ""
        if keyword == "weight" and value.isascii() and value.isdigit():
            weight = int(value)
            position += 2
        elif keyword == "disabled":
            disabled = True
            position += 1
        elif keyword in _WITH_VALUE:
            known = known and value not in _NEEDS_TLS_FILES
            rest += [keyword, value]
            position += 2
        else:
            known = known and keyword in _FLAGS
            rest.append(keyword)
            position += 1
    return _Rest(weight, disabled, "check" in rest, known, tuple(rest))
