"""Reading back what an amphora holds: the text of its present configuration, ours or upstream's."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping

import attrs

from octavia_haproxy.render.model import PemFile, Tls
from octavia_haproxy.render.names import backend_name, pool_of
from octavia_haproxy.render.words import INDENT, unquote

__all__ = ["Held", "read_back"]

_FILE = re.compile(r"\s*# file (\S+\.pem) ([0-9a-f]{32})")
_MEMBERS = re.compile(r"\s*# members (.*)")


@attrs.frozen(kw_only=True)
class Held:
    """What matters of the configuration an amphora has.

    Attributes:
        binds: listener id -> TLS of its bind lines, where it has one.
        servers: backend name -> TLS of its server lines, or of those that it would have; where it has one.
        named: all files that it names, by name; of one that upstream wrote the leaf certificates stay unknown.
        maxconn: the global limit.
        threads: nbthread, None when it is not set.
        ssl_cache: tune.ssl.cachesize, 0 when it is not set.
    """

    binds: Mapping[str, Tls] = attrs.field(factory=dict)
    servers: Mapping[str, Tls] = attrs.field(factory=dict)
    named: Mapping[str, PemFile] = attrs.field(factory=dict)
    maxconn: int | None = None
    threads: int | None = None
    ssl_cache: int = 0

    def pool(self, pool_id: str, listener_id: str) -> Tls | None:
        """TLS towards the members of a pool: as it is under that listener, or else under another one, where it is the same."""
        names = (backend_name(pool_id, listener_id), *self.servers)
        return next((self.servers[name] for name in names if name in self.servers and pool_of(name) == pool_id), None)

    def only(self, present: Iterable[str]) -> Held:
        """Without the TLS that needs a file which is not present."""
        there = set(present)
        return attrs.evolve(
            self,
            binds={name: tls for name, tls in self.binds.items() if _whole(tls, there)},
            servers={name: tls for name, tls in self.servers.items() if _whole(tls, there)},
        )


def read_back(text: str, directory: str) -> Held:
    """Read a configuration. Lines that cannot be understood are passed over: it may be of another version.

    Args:
        text: the file as the agent returns it.
        directory: where the load balancer's PEM files are in the amphora.
    """
    binds: dict[str, Tls] = {}
    servers: dict[str, Tls] = {}
    # all of them, also those of sections that have no line with them now; it may be a text of 10,000 members
    named = _manifest(f"# file {piece}" for piece in text.split(f"\n{INDENT}# file ")[1:])
    numbers = {"maxconn": 0, "nbthread": 0, "tune.ssl.cachesize": 0}
    for kind, name, lines in _sections(text):
        if kind == "global":
            for words in _words(lines, numbers):
                if len(words) > 1 and words[1].isdecimal():
                    numbers[words[0]] = int(words[1])
        elif kind == "frontend":
            found = next(_words(lines, ("bind",)), [])
            if "ssl" in found:
                binds[name] = _tls(found[2:], lines, directory)
        elif kind == "backend":
            found = next(_words(lines, ("server",)), []) or _of_nobody(lines)
            if "ssl" in found:
                servers[name] = _tls(found[found.index("ssl") :], lines, directory)
    for tls in (*binds.values(), *servers.values()):
        named |= {file.name: file for file in tls.files}
    return Held(
        binds=binds,
        servers=servers,
        named=named,
        maxconn=numbers["maxconn"] or None,
        threads=numbers["nbthread"] or None,
        ssl_cache=numbers["tune.ssl.cachesize"],
    )


def _sections(text: str) -> Iterator[tuple[str, str, list[str]]]:
    kind, name, lines = "", "", list[str]()
    for line in text.split("\n"):
        if not line or line[0].isspace() or line[0] == "#":
            lines.append(line)
            continue
        yield kind, name, lines
        kind, _, name = line.strip().partition(" ")
        name, lines = name.strip(), []
    yield kind, name, lines


def _words(lines: list[str], keywords: Iterable[str]) -> Iterator[list[str]]:
    starts = tuple(keywords)
    for line in lines:
        if line.lstrip().startswith(starts):
            try:
                words = unquote(line)
            except ValueError:
                continue
            if words and words[0] in starts:
                yield words


def _tls(words: list[str], lines: list[str], directory: str) -> Tls:
    files = _manifest(lines)
    for word in words:
        place, _, name = word.rpartition("/")
        if place == directory and name not in files:
            files[name] = PemFile(name=name, md5="")
    return Tls(words=tuple(words), files=tuple(files.values()))


def _manifest(lines: Iterable[str]) -> dict[str, PemFile]:
    return {match[1]: PemFile(name=match[1], md5=match[2]) for match in map(_FILE.match, lines) if match}


def _of_nobody(lines: list[str]) -> list[str]:
    """The words that members of a pool without any would have."""
    for match in map(_MEMBERS.match, lines):
        if match:
            with contextlib.suppress(ValueError):
                return unquote(match[1])
    return []


def _whole(tls: Tls, present: set[str]) -> bool:
    return all(file.name in present for file in tls.files)
