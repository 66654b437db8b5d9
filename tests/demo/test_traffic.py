"""The demo's traffic notices what it is there to notice."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from octavia_core.cli.demo.members import MemberServer
from octavia_core.cli.demo.traffic import Target, Traffic

PATIENCE = 60.0


def until(seen: Callable[[], object]) -> None:
    """Wait for it, and leave the processor to those who bring it about."""
    deadline = time.monotonic() + PATIENCE
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextlib.contextmanager
def flowing(port: int, member: str = "one") -> Iterator[Traffic]:
    traffic = Traffic({"plain": Target(host="127.0.0.1", port=port, name="demo.example")})
    traffic.allow(member)
    traffic.start()
    try:
        yield traffic
    finally:
        traffic.stop()


def test_right_answers_are_counted_by_member_and_a_death_is_noticed() -> None:
    member = MemberServer("one")
    try:
        with flowing(member.port) as traffic:
            assert traffic.wait_for_answers(20, PATIENCE)
            assert traffic.by_member["one"] >= 20
            assert traffic.failures == []
            mark = traffic.mark()
            member.kill()
            until(lambda: traffic.since(mark))
    finally:
        member.end()
    dead = ("Connection refused", "Connection reset by peer", "closed before an answer")
    assert all(failure.why.startswith(dead) for failure in traffic.since(mark))
    assert sum(right + wrong for _, right, wrong in traffic.spans) == traffic.sent


def test_the_answer_of_a_stranger_is_a_failure() -> None:
    member = MemberServer("stranger")
    try:
        with flowing(member.port) as traffic:
            until(lambda: traffic.failures)
    finally:
        member.end()
    assert traffic.failures[0].why == "answered by stranger, which is no member now"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", "answer: HTTP/1.1 503 Service Unavailable"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\none /x", "the body of another request: '/x'"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\none", "closed in the middle of an answer"),
        (b"", "closed before an answer"),
    ],
)
def test_wrong_answers_are_failures(answer: bytes, why: str) -> None:
    with serving(lambda _: answer) as port, flowing(port) as traffic:
        until(lambda: traffic.failures)
    assert traffic.failures[0].why.startswith(why)


@contextlib.contextmanager
def serving(answer: Callable[[bytes], bytes]) -> Iterator[int]:
    """A server that gives one answer to each connection and closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)
        stopping = threading.Event()

        def serve() -> None:
            while not stopping.is_set():
                with contextlib.suppress(TimeoutError, ConnectionError):
                    connection, _ = listening.accept()
                    with connection:
                        connection.settimeout(PATIENCE)
                        connection.sendall(answer(connection.recv(65536)))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            stopping.set()
            thread.join()
