"""HTTP/1.1 as far as the agent API needs it: bytes in, a `Request` out; a `Response` in, bytes out. No socket here.

Own code instead of http.server or h11: both cost more start-up time and memory than the rest of the agent together,
and every local amphora pays them. What is not needed (chunked bodies, trailers, upgrade) is refused, not guessed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import NamedTuple

__all__ = [
    "LARGEST_BODY",
    "LARGEST_HEAD",
    "BadHttp",
    "Reader",
    "Refusal",
    "Request",
    "Response",
    "answer",
    "framework_error",
    "md5",
]

LARGEST_HEAD = 16 * 1024
"""Bytes of request line and headers."""
LARGEST_BODY = 16 * 1024 * 1024
"""Bytes of a request body; more is refused before it is read."""

_REASONS = {
    200: "OK",
    202: "Accepted",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    412: "Precondition Failed",
    413: "Request Entity Too Large",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
}
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def md5(data: bytes) -> str:
    """The API's ETag: bare hex MD5, without quotes (upstream's choice; it protects nothing)."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


class Request(NamedTuple):
    """One request. Header names are lower case; `path` is decoded and without its query."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    keep_alive: bool


class Response(NamedTuple):
    """One answer."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()

    def serialise(self, *, keep_alive: bool) -> bytes:
        """The bytes on the wire."""
        lines = [
            f"HTTP/1.1 {self.status} {_REASONS.get(self.status, 'Unknown')}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {len(self.body)}",
            f"Connection: {'keep-alive' if keep_alive else 'close'}",
            *(f"{name}: {value}" for name, value in self.headers),
        ]
        return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + self.body


def answer(status: int, document: object, *, etag: str | None = None) -> Response:
    """An answer in compact JSON."""
    body = json.dumps(document, separators=(",", ":")).encode()
    return Response(status, body, headers=(("ETag", etag),) if etag else ())


def framework_error(status: int, text: str) -> Response:
    """An error as upstream's web framework words it: `{"error": "<code> <name>: <text>", "http_code": <code>}`."""
    return answer(status, {"error": f"{status} {_REASONS.get(status, 'Error')}: {text}", "http_code": status})


class Refusal(Exception):
    """The request ends with this answer, as upstream's agent words its own errors: `{"message", "details"}`."""

    def __init__(self, status: int, message: str, details: str | None = None) -> None:
        super().__init__(f"{message}: {details}" if details else message)
        self.status, self.message, self.details = status, message, details

    @property
    def response(self) -> Response:
        """The answer to send."""
        document = {"message": self.message}
        if self.details is not None:
            document["details"] = self.details
        return answer(self.status, document)


class BadHttp(Exception):
    """The bytes are not a request that is served here; the connection ends after the answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.response = framework_error(status, text)


class Reader:
    """Reads requests one after the other from a source of bytes.

    Args:
        receive: gives up to n bytes, `b""` at the end; may raise OSError.
        send: takes interim answers (100 Continue).
    """

    def __init__(self, receive: Callable[[int], bytes], send: Callable[[bytes], object]) -> None:
        self._receive, self._send = receive, send
        self._buffer = bytearray()

    def next(self) -> Request | None:
        """The next request, or None when the peer closed between two requests.

        Raises:
            BadHttp: what arrived is not a request served here.
            OSError: the source failed or timed out.
        """
        head = self._head()
        if head is None:
            return None
        method, path, version, headers = _parse_head(head)
        length = _body_length(headers)
        if headers.get("expect", "").lower() == "100-continue" and length:
            self._send(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = self._body(length)
        connection = {word.strip().lower() for word in headers.get("connection", "").split(",")}
        keep = "close" not in connection if version == "HTTP/1.1" else "keep-alive" in connection
        return Request(method, path, headers, body, keep)

    def _head(self) -> bytes | None:
        while True:
            while self._buffer[:2] == b"\r\n":  # RFC 9112 2.2: an empty line before a request is ignored
                del self._buffer[:2]
            end = self._buffer.find(b"\r\n\r\n")
            if end > LARGEST_HEAD or (end < 0 and len(self._buffer) > LARGEST_HEAD):
                raise BadHttp(431, f"the request headers are larger than {LARGEST_HEAD} bytes")
            if end >= 0:
                head = bytes(self._buffer[:end])
                del self._buffer[: end + 4]
                return head
            chunk = self._receive(16384)
            if not chunk:
                if self._buffer:
                    raise BadHttp(400, "the connection ended inside a request")
                return None
            self._buffer += chunk

    def _body(self, length: int) -> bytes:
        while len(self._buffer) < length:
            chunk = self._receive(min(65536, length - len(self._buffer)))
            if not chunk:
                raise BadHttp(400, "the connection ended inside a request body")
            self._buffer += chunk
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        return body


def _parse_head(head: bytes) -> tuple[str, str, str, dict[str, str]]:
    lines = head.decode("latin-1").split("\r\n")
    parts = lines[0].split(" ")
    if len(parts) != 3 or not parts[0] or not _TOKEN.issuperset(parts[0]):
        raise BadHttp(400, "the request line is not HTTP")
    method, target, version = parts
    if version not in ("HTTP/1.1", "HTTP/1.0"):
        raise BadHttp(400, "only HTTP/1.0 and HTTP/1.1 are spoken here")
    if not target.startswith("/"):
        raise BadHttp(400, "the request target is not a path")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not name or not _TOKEN.issuperset(name):
            raise BadHttp(400, "a request header is malformed")
        key, value = name.lower(), value.strip(" \t")
        if key == "content-length" and headers.get(key, value) != value:
            raise BadHttp(400, "two different Content-Length headers")
        headers[key] = value
    return method, _decoded(target.partition("?")[0]), version, headers


def _body_length(headers: Mapping[str, str]) -> int:
    if "transfer-encoding" in headers:
        raise BadHttp(400, "send the body with Content-Length; Transfer-Encoding is not served here")
    text = headers.get("content-length", "0")
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise BadHttp(400, "Content-Length is not a number")
    length = int(text)
    if length > LARGEST_BODY:
        raise BadHttp(413, f"the body is larger than {LARGEST_BODY} bytes")
    return length


def _decoded(path: str) -> str:
    """Percent-decoding; a decoded slash or control character would change the meaning of the path and is refused."""
    if "%" not in path:
        return path
    head, *parts = path.encode("latin-1").split(b"%")
    out = bytearray(head)
    for part in parts:
        try:
            byte = int(part[:2].decode("ascii"), 16) if len(part) >= 2 else -1
        except ValueError:
            byte = -1
        if byte < 0x20 or byte in (0x2F, 0x5C, 0x7F):
            raise BadHttp(400, "the request path is badly encoded")
        out.append(byte)
        out += part[2:]
    return out.decode("utf-8", "replace")
