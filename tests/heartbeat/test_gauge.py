"""A gauge ends in an INT column: a heartbeat that cannot be stored is malformed, signed or not."""

from __future__ import annotations

import pytest

from octavia_core.domain.heartbeat import BadPacket, Reason, decode, encode


def _beat(conns: int) -> bytes:
    stats = {"tx": 1, "rx": 1, "conns": conns, "totconns": 1, "ereq": 0}
    listeners = {"0f2a1c1e-9d0b-4a53-8f4e-2b7f1d7c0a01": {"status": "OPEN", "stats": stats}}
    return encode(
        {"id": "5d1b2f3c-0b0e-4b5f-9a55-6c8f8f0a1e11", "seq": 1, "listeners": listeners, "pools": {}, "ver": 3}, "k"
    )


def test_as_many_connections_as_the_column_holds_are_believed() -> None:
    (report,) = decode(_beat(2**31 - 1), ["k"]).listeners.values()
    assert report.conns == 2**31 - 1


def test_more_connections_than_the_column_holds_are_malformed() -> None:
    with pytest.raises(BadPacket) as refused:
        decode(_beat(2**31), ["k"])
    assert refused.value.reason is Reason.MALFORMED
