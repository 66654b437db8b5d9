"""Reading back what an amphora holds: the text of its present configuration, ours or upstream's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

import attrs

from octavia_haproxy.render.model import PemFile, Tls
from octavia_haproxy.render.words import unquote

__all__ = ["Held", "read_back"]

_FILE = re.compile(r"\s*# file (\S+\.pem) ([0-9a-f]{32})")


@attrs.frozen(kw_only=True)
class Held:
    """What matters of the configuration an amphora has.

    Attributes:
        binds: listener id -> TLS of its bind lines, where it has one.
        servers: backend name -> TLS of its server lines, where it has one.
        maxconn: the global limit.
        threads: nbthread, None when it is not set.
        ssl_cache: tune.ssl.cachesize, 0 when it is not set.
    """

    binds: Mapping[str, Tls] = attrs.field(factory=dict)
    servers: Mapping[str, Tls] = attrs.field(factory=dict)
    maxconn: int | None = None
    threads: int | None = None
    ssl_cache: int = 0

    def files(self) -> dict[str, PemFile]:
        """All files the configuration names; of one that upstream wrote the leaf certificates stay unknown."""
        return {file.name: file for tls in (*self.binds.values(), *self.servers.values()) for file in tls.files}

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
            found = next(_words(lines, ("server",)), [])
            if "ssl" in found:
                servers[name] = _tls(found[found.index("ssl") :], lines, directory)
    return Held(
        binds=binds,
        servers=servers,
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
    files = {match[1]: PemFile(name=match[1], md5=match[2]) for match in map(_FILE.match, lines) if match}
    for word in words:
        place, _, name = word.rpartition("/")
        if place == directory and name not in files:
            files[name] = PemFile(name=name, md5="")
    return Tls(words=tuple(words), files=tuple(files.values()))


def _whole(tls: Tls, present: set[str]) -> bool:
    return all(file.name in present for file in tls.files)
