"""Unit files of a service manager, as far as an amphora's services use them (systemd.unit(5), systemd.service(5)).

Standard library only: this runs as the first process of a namespace, on whatever Python is there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

__all__ = ["Unit", "words"]

_VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w+)")
_ESCAPES = {"n": "\n", "t": "\t", "s": " ", "\\": "\\", '"': '"', "'": "'"}


class Unit:
    """One unit file: section -> option -> values, in their order."""

    def __init__(self, text: str) -> None:
        self._options: dict[str, list[str]] = {}
        section = ""
        for line in map(str.strip, re.sub(r"\\\n\s*", " ", text).splitlines()):
            if line.startswith("["):
                section = line.strip("[]")
            elif line and line[0] not in "#;" and "=" in line:
                name, _, value = line.partition("=")
                self._options.setdefault(f"{section}.{name.strip()}", []).append(value.strip())

    def all(self, name: str) -> list[str]:
        """Values of `Section.Option`; an empty assignment forgets those before it."""
        found: list[str] = []
        for value in self._options.get(name, []):
            found = [*found, value] if value else []
        return found

    def one(self, name: str, otherwise: str = "") -> str:
        """The last value."""
        return (self.all(name) or [otherwise])[-1]

    def environment(self) -> dict[str, str]:
        """What Environment= and EnvironmentFile= say."""
        found: dict[str, str] = {}
        for path in self.all("Service.EnvironmentFile"):
            file = Path(path.lstrip("-"))
            lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
            for line in lines:
                name, equals, value = line.strip().partition("=")
                if equals and not name.startswith("#"):
                    found[name] = value.strip("\"'")
        for entry in self.all("Service.Environment"):
            for word in words(entry, {}):
                name, _, value = word.partition("=")
                found[name] = value
        return found


def words(line: str, variables: Mapping[str, str]) -> list[str]:
    """Split a command line by the service manager's rules: quotes of both kinds honour backslashes; `$NAME` alone
    becomes several words, inside a word `${NAME}` becomes one.
    """
    found: list[str] = []
    position, end = 0, len(line)
    while position < end:
        if line[position].isspace():
            position += 1
            continue
        word, quote, quoted = "", "", False
        while position < end and (quote or not line[position].isspace()):
            char = line[position]
            if char == "\\" and position + 1 < end and line[position + 1] in _ESCAPES:
                word += _ESCAPES[line[position + 1]]
                position += 2
                continue
            if char == quote:
                quote = ""
            elif not quote and char in "'\"":
                quote, quoted = char, True
            else:
                word += char
            position += 1
        alone = re.fullmatch(r"\$(\w+)", word)
        if alone and not quoted:
            found += variables.get(alone[1], "").split()
        else:
            found.append(_VARIABLE.sub(lambda match: variables.get(match[1] or match[2], ""), word).replace("$$", "$"))
    return found
