"""Who is heard: only controllers, within limits, whatever else is sent."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import ssl
from collections.abc import Callable

import pytest

from octavia_local.agent.server import MOST_CONNECTIONS, MOST_STRANGERS
from octavia_local.agent.wire import LARGEST_BODY
from tests.local_agent.rig import CONTROLLER, PATIENCE, Authorities, Rig, until


def raw(rig: Rig) -> socket.socket:
    return socket.create_connection((rig.facts["host"], rig.facts["port"]), timeout=PATIENCE)


def talk(connection: ssl.SSLSocket, data: bytes) -> bytes:
    """Send, and read until the agent closes."""
    answer = b""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError, ssl.SSLEOFError):
        connection.sendall(data)
    with contextlib.suppress(ConnectionResetError, BrokenPipeError, ssl.SSLEOFError):
        while chunk := connection.recv(65536):
            answer += chunk
    return answer


def test_a_client_without_certificate_is_refused(rig: Rig) -> None:
    context = rig.context(None)
    with (
        raw(rig) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
        context.wrap_socket(plain, server_hostname=rig.amphora_id) as secured,
    ):
        secured.sendall(b"GET / HTTP/1.1\r\n\r\n")
        if not secured.recv(100):  # TLS 1.3 tells it at the first read
            raise ConnectionError
    until(lambda: "a client was refused" in rig.log, "a line in the log")


def test_a_client_of_a_foreign_authority_is_refused(rig: Rig, authorities: Authorities) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)), rig.connect(authorities.stranger) as secured:
        secured.sendall(b"GET / HTTP/1.1\r\n\r\n")
        if not secured.recv(100):
            raise ConnectionError


def test_a_client_with_another_name_is_told_so(rig: Rig, authorities: Authorities) -> None:
    with rig.connect(authorities.other_controller) as secured:
        answer = talk(secured, b"GET / HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"does not belong to a controller" in answer


def test_without_names_any_certificate_of_the_authority_is_heard(
    make_rig: Callable[..., Rig], authorities: Authorities
) -> None:
    rig = make_rig(local={"controller_names": []}).start()
    with rig.connect(authorities.other_controller) as secured:
        assert talk(secured, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_names_are_compared_whole_and_without_case(make_rig: Callable[..., Rig]) -> None:
    assert make_rig(local={"controller_names": ["x", CONTROLLER.upper()]}).start().ask("GET", "/").status == 200


def test_old_tls_is_refused(rig: Rig) -> None:
    context = rig.context(rig.authorities.controller)
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with raw(rig) as plain, pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(plain, server_hostname=rig.amphora_id)


def test_a_rotated_certificate_serves_the_next_connection(rig: Rig, authorities: Authorities) -> None:
    with rig.connect() as kept:
        old = kept.getpeercert(binary_form=True)
        assert rig.ask("PUT", "/1.0/certificate", authorities.agent(rig.amphora_id)).status == 202
        with rig.connect() as fresh:
            assert fresh.getpeercert(binary_form=True) != old
        assert talk(kept, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("what", ["garbage", "certificate only", "key of another"])
def test_a_bad_certificate_does_not_lock_the_controller_out(rig: Rig, authorities: Authorities, what: str) -> None:
    good = authorities.agent(rig.amphora_id)
    end = b"-----END CERTIFICATE-----\n"
    certificate = good.partition(end)[0] + end
    other = authorities.stranger.partition(end)[2]
    body = {"garbage": b"\x00\xff" * 40, "certificate only": certificate, "key of another": certificate + other}[what]
    answer = rig.ask("PUT", "/1.0/certificate", body)
    assert (answer.status, answer.json["message"]) == (400, "Invalid certificate")
    assert rig.ask("GET", "/").status == 200


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(rig: Rig) -> None:
    with rig.connect() as secured:
        head = f"PUT /1.0/config HTTP/1.1\r\nContent-Length: {LARGEST_BODY + 1}\r\n\r\n"
        assert talk(secured, head.encode()).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nNo colon\r\n\r\n", 400),
        (b"GET /%zz HTTP/1.1\r\n\r\n", 400),
        (b"GET /1.0/loadbalancer/%2e%2e%2fetc/haproxy HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/3\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 20000 + b"\r\n\r\n", 431),
        (b"GET /1.0/loadbalancer/../haproxy HTTP/1.1\r\nConnection: close\r\n\r\n", 404),
    ],
)
def test_a_malformed_request_is_answered_in_json(rig: Rig, request_: bytes, status: int) -> None:
    with rig.connect() as secured:
        head, _, body = talk(secured, request_).partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"application/json" in head
    assert b"Traceback" not in body


def test_garbage_before_and_after_tls_does_not_hurt(rig: Rig) -> None:
    random_bytes = random.Random(7)
    for size in (0, 1, 5, 300, 70000):
        with raw(rig) as plain, contextlib.suppress(OSError):
            plain.sendall(random_bytes.randbytes(size))
    for size in (1, 40, 5000, 40000):
        with rig.connect() as secured, contextlib.suppress(OSError):
            secured.sendall(random_bytes.randbytes(size) + b"\r\n\r\n")
            secured.recv(100)
    assert rig.ask("GET", "/").status == 200
    assert "Traceback" not in rig.log


def test_silent_strangers_do_not_keep_a_controller_out(make_rig: Callable[..., Rig]) -> None:
    """They have places of their own: it is served while they are still there, and more of them push out each other only."""
    rig = make_rig(limits={"server.HANDSHAKE_WITHIN": PATIENCE}).start()
    with contextlib.ExitStack() as stack:
        strangers = [stack.enter_context(raw(rig)) for _ in range(MOST_STRANGERS)]
        assert rig.ask("GET", "/").status == 200
        assert any(is_open(one) for one in strangers)
        strangers += [stack.enter_context(raw(rig)) for _ in range(2 * MOST_STRANGERS)]
        assert rig.ask("GET", "/").status == 200


def is_open(connection: socket.socket) -> bool:
    """Whether the other side has not hung up."""
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def test_idle_connections_give_way(rig: Rig) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(MOST_CONNECTIONS):
            secured = stack.enter_context(rig.connect())
            secured.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert secured.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert rig.ask("GET", "/").status == 200
        threads = len(os.listdir(f"/proc/{rig.pid}/task"))
        assert threads <= MOST_CONNECTIONS + MOST_STRANGERS + 5


def test_a_connection_is_kept_for_more_requests_and_pipelining_works(rig: Rig) -> None:
    with rig.connect() as secured:
        answer = talk(secured, b"GET / HTTP/1.1\r\n\r\nGET /1.0/info HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200 OK") == 2


def test_a_lower_fence_of_the_same_operation_is_refused(rig: Rig) -> None:
    def status(fence: str) -> int:
        return rig.ask("PUT", f"/1.0/loadbalancer/{rig.lb}/certificates/a.pem", b"x", X_Octavia_Fence=fence).status

    assert [status("op-1:3"), status("op-1:3"), status("op-1:2"), status("op-2:1"), status("op-1:4")] == [
        200, 200, 409, 200, 200,
    ]  # fmt: skip
    refused = rig.ask("GET", "/1.0/info", X_Octavia_Fence="op-1:1")
    assert refused.json["message"] == "Stale fence"
    assert rig.ask("GET", "/1.0/info").status == 200
    assert status("nonsense") == 400
