r"""The words of a configuration line: quoting, its inverse, and what may never be written.

HAProxy splits a line at blanks; `\`, `'`, `"` and `#` are special outside quotes, `$` inside double quotes, and nothing
at all inside single quotes (HAProxy configuration manual, section 2.2 "Quoting and escaping"). So every word that
holds anything special is written in single quotes, and a single quote itself as `'\''`. Lines are built as tuples of
words and joined here only: user text can make a word longer, never a second word or a second line.
"""

from __future__ import annotations

import re

__all__ = ["INDENT", "argument", "has_control", "line", "log_format", "quote", "unquote"]

INDENT = "    "

_BARE = re.compile(r"""[!%&()*+,\-./0-9:;<=>?@A-Z\[\]^_`a-z{|}~]+""")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_GROUP = re.compile(r"(?<=\s)group(?=\s)")
_ARGUMENT = re.compile(r"[!$%&*+\-./0-9:;<=>?@A-Z\[\]^_`a-z{|}~]+")
_SPECIAL = re.compile(r"""[\\'"#]""")
_ESCAPE = re.compile(r"""\\(x[0-9A-Fa-f]{2}|[rnt #\\"'$])""")
_PIECES = re.compile(
    r"""(?P<strong>'[^']*')|(?P<weak>"(?:[^"\\]|\\.)*")|(?P<escape>\\(?:x[0-9A-Fa-f]{2}|[rnt #\\"']))"""
    r"""|(?P<blank>[ \t]+)|(?P<comment>\#)|(?P<open>['"])|(?P<plain>[^ \t'"\\#]+|\\)"""
)
_ESCAPES = {"r": "\r", "n": "\n", "t": "\t", " ": " ", "#": "#", "\\": "\\", '"': '"', "'": "'", "$": "$"}


def has_control(text: str) -> bool:
    """True when the text holds a control character, a line separator, or what UTF-8 cannot carry."""
    return _CONTROL.search(text) is not None


def quote(word: str) -> str:
    """The word as HAProxy reads it back unchanged, whatever it holds.

    The upstream agent cuts each ` group ...` out of what it receives (it brings a group line of its own), also out of
    the middle of a quoted word; so that word is written as two halves, which HAProxy joins.

    Raises:
        ValueError: a control character; user text is checked before (`render.check`), with the object's name.
    """
    if _BARE.fullmatch(word):
        return word if word != "group" else "gr''oup"
    if has_control(word):
        raise ValueError(f"a control character cannot be written: {word!r}")
    return "'" + _GROUP.sub("gr''oup", word.replace("'", r"'\''")) + "'"


def argument(text: str) -> str:
    """The text as one argument of a sample fetch, inside the parentheses of `req.hdr(...)`; to be quoted as a word next."""
    if _ARGUMENT.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def log_format(text: str) -> str:
    """The text as a constant where HAProxy expects a log-format string."""
    return text.replace("%", "%%")


def line(*words: str) -> str:
    """An indented line of those words."""
    return INDENT + " ".join(map(quote, words))


def unquote(text: str) -> list[str]:
    """Split a line into its words as HAProxy does, its comment left out. Environment variables are not expanded.

    Raises:
        ValueError: a quote is not closed.
    """
    if text.isascii() and not _SPECIAL.search(text):
        return text.split()
    words: list[str] = []
    word: str | None = None
    for piece in _PIECES.finditer(text):
        kind, found = piece.lastgroup, piece[0]
        if kind == "blank":
            if word is not None:
                words.append(word)
            word = None
        elif kind == "comment":
            break
        elif kind == "open":
            raise ValueError(f"a quote is not closed: {text!r}")
        else:
            word = (word or "") + _meaning(kind, found)
    return words if word is None else [*words, word]


def _meaning(kind: str | None, found: str) -> str:
    if kind == "strong":
        return found[1:-1]
    if kind == "weak":
        return _ESCAPE.sub(_escaped, found[1:-1])
    if kind == "escape":
        return _ESCAPE.sub(_escaped, found)
    return found


def _escaped(match: re.Match[str]) -> str:
    code = match[1]
    return chr(int(code[1:], 16)) if len(code) == 3 else _ESCAPES[code]
