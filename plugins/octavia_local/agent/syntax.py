"""HAProxy's configuration language, as far as it must be understood to translate and compare: words and sections."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from octavia_local.agent.wire import Refusal

__all__ = ["SECTIONS", "Line", "Section", "Word", "quoted", "read", "texts", "words"]

SECTIONS = frozenset({"global", "defaults", "frontend", "backend", "listen", "peers", "resolvers", "userlist", "cache"})
"""What may stand in a configuration that is run here."""

_REFUSED_SECTIONS = frozenset(
    {
        "program",
        "ring",
        "log-forward",
        "log-profile",
        "fcgi-app",
        "mailers",
        "http-errors",
        "crt-store",
        "traces",
        "acme",
    }
)


_PLAIN, _NOT_PLAIN = re.compile(r"[^ \t\r]+"), re.compile(r"[\\'\"#]")
_NOT_SIMPLE = re.compile(r"[\\'\"#\x0b\x0c\x1c-\x1f]|[^\x00-\x7f]")
"""What is plain and this not: where `str.split` knows more blanks than HAProxy does."""


class Word(NamedTuple):
    """One word of a line: where it stands in the raw text, and what it means without quotes and escapes."""

    start: int
    end: int
    text: str


class Line(NamedTuple):
    """One line: its raw text, the texts of its words, its number in the file (from 1)."""

    raw: str
    texts: tuple[str, ...]
    number: int

    @property
    def words(self) -> tuple[Word, ...]:
        """Its words, with their places; looked for when they are asked for, since most lines stay as they are."""
        return words(self.raw)

    def word(self, index: int) -> str:
        """The text of a word, or an empty text where there is none."""
        return self.texts[index] if index < len(self.texts) else ""

    def replaced(self, changes: dict[int, str]) -> str:
        """The raw text with some words replaced by other raw texts; everything else stays as it is."""
        if not changes:
            return self.raw
        text, words = self.raw, self.words
        for index in sorted(changes, reverse=True):
            word = words[index]
            text = text[: word.start] + changes[index] + text[word.end :]
        return text


class Section(NamedTuple):
    """A header line with the lines under it. Lines before the first header are in a section of kind ''."""

    kind: str
    name: str
    header: Line | None
    lines: tuple[Line, ...]


def words(raw: str) -> tuple[Word, ...]:
    r"""Split a line as HAProxy does: blanks separate, `\` escapes, quotes group, `#` begins a comment.

    Raises:
        ValueError: a quote is not closed.
    """
    if _NOT_PLAIN.search(raw) is None:
        return tuple([Word(found.start(), found.end(), found[0]) for found in _PLAIN.finditer(raw)])
    return _spelt_words(raw)


def texts(raw: str) -> tuple[str, ...]:
    """The texts of `words`, without their places.

    Raises:
        ValueError: a quote is not closed.
    """
    if _NOT_SIMPLE.search(raw) is None:  # nearly all: a configuration may have thousands of members
        return tuple(raw.split())
    return tuple([word.text for word in words(raw)])


def _spelt_words(raw: str) -> tuple[Word, ...]:
    """The same letter by letter, for lines with quotes, escapes or comments."""
    found: list[Word] = []
    text: list[str] = []
    start, quote, position = -1, "", 0
    while position < len(raw):
        char = raw[position]
        if quote == "'":
            quote, text = ("", text) if char == "'" else (quote, [*text, char])
        elif char == "\\":
            start = position if start < 0 else start
            position += 1
            text.append(raw[position : position + 1])
        elif quote:
            quote, text = ("", text) if char == '"' else (quote, [*text, char])
        elif char in "'\"":
            start, quote = (position if start < 0 else start), char
        elif char in " \t\r" or char == "#":
            if start >= 0:
                found.append(Word(start, position, "".join(text)))
                start, text = -1, []
            if char == "#":
                break
        else:
            start = position if start < 0 else start
            text.append(char)
        position += 1
    if quote:
        raise ValueError("a quote is not closed")
    if start >= 0:
        found.append(Word(start, min(position, len(raw)), "".join(text)))
    return tuple(found)


def quoted(text: str) -> str:
    """A word with this meaning, safe anywhere in a configuration."""
    return "".join(f"\\{char}" if char in " \t\\#'\"$" else char for char in text)


def read(text: str) -> tuple[Section, ...]:
    """Split a configuration into its sections.

    Raises:
        Refusal: 400, a section or line that is not run here; the details name it.
    """
    sections: list[Section] = []
    kind, name, header = "", "", None
    lines: list[Line] = []
    for line in _lines(text):
        first = line.word(0)
        if first in _REFUSED_SECTIONS or first.startswith("."):
            raise Refusal(400, "Invalid request", f"line {line.number}: {first!r} is not allowed on a local amphora")
        if first in SECTIONS:
            if header is not None or lines:
                sections.append(Section(kind, name, header, tuple(lines)))
            kind, name, header, lines = first, line.word(1), line, []
        else:
            lines.append(line)
    sections.append(Section(kind, name, header, tuple(lines)))
    return tuple(sections)


def _lines(text: str) -> Iterable[Line]:
    if "\0" in text:
        raise Refusal(400, "Invalid request", "the configuration holds a NUL byte")
    for number, raw in enumerate(text.split("\n"), start=1):
        try:
            yield Line(raw, texts(raw), number)
        except ValueError as error:
            raise Refusal(400, "Invalid request", f"line {number}: {error}") from error
