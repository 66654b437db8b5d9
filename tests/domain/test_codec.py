"""Domain values to JSON and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs
import pytest

from octavia_core.domain.amphora import AgentAddress, Amphora
from octavia_core.domain.codec import from_json, to_json
from octavia_core.domain.operation import Operation, Subject
from octavia_core.domain.secret import CertificateBundle, Secret
from octavia_core.domain.tree import HealthMonitor, L7Policy, L7Rule, Listener, LoadBalancer, Member, Pool
from octavia_core.domain.vocabulary import (
    AmphoraStatus,
    CompareType,
    Kind,
    L7Action,
    L7RuleType,
    ListenerProtocol,
    MonitorType,
    PoolProtocol,
)

TREE = LoadBalancer(
    id="lb",
    listeners=(
        Listener(
            id="l",
            protocol=ListenerProtocol.HTTP,
            protocol_port=80,
            insert_headers={"X-Forwarded-For": "true"},
            l7policies=(
                L7Policy(
                    id="p",
                    action=L7Action.REJECT,
                    rules=(L7Rule(id="r", type=L7RuleType.PATH, compare_type=CompareType.REGEX, value="^/x"),),
                ),
            ),
        ),
    ),
    pools=(
        Pool(
            id="pool",
            protocol=PoolProtocol.HTTP,
            members=(Member(id="m", address="::1", protocol_port=1),),
            health_monitor=HealthMonitor(id="h", type=MonitorType.TLS_HELLO, http_version=1.1),
        ),
    ),
)


@pytest.mark.parametrize(
    "value",
    [
        TREE,
        Amphora(id="a", status=AmphoraStatus.BOOTING),
        AgentAddress(amphora_id="a", host="127.0.0.1"),
        Operation(id="o", flow="f", arguments={"a": [1, {"b": None}]}, subjects=(Subject(Kind.MEMBER, "m"),)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_survives_its_json(value):
    assert from_json(json.loads(json.dumps(to_json(value))), type(value)) == value


@pytest.mark.parametrize(
    ("value", "hint"),
    [((1, 2), tuple[int, ...]), (None, Amphora | None), ({"a": (1,)}, Mapping[str, tuple[int, ...]]), (1.5, float)],
)
def test_hints_are_types_too(value, hint):
    assert from_json(json.loads(json.dumps(to_json(value))), hint) == value


def test_what_is_json_already_stays_as_it_is():
    data = {"a": [1, 1.5, "x", None, True], "b": {"c": []}}
    assert to_json(data) == data
    assert from_json(data, Any) == data


def test_keys_of_a_newer_version_are_passed_over_and_missing_ones_get_defaults():
    data = {"id": "m", "address": "192.0.2.1", "protocol_port": 80, "invented_later": {"x": 1}}
    assert from_json(data, Member) == Member(id="m", address="192.0.2.1", protocol_port=80)


@pytest.mark.parametrize(
    "value",
    [
        Secret("hush"),
        {"deep": [Secret("hush")]},
        CertificateBundle(certificate="c", private_key=Secret("hush")),
    ],
    ids=["bare", "nested", "bundle"],
)
def test_a_secret_never_becomes_json(value):
    with pytest.raises(TypeError, match="secret") as caught:
        to_json(value)
    assert "hush" not in str(caught.value)


def test_a_secret_is_never_read_from_json():
    with pytest.raises(TypeError, match="secret"):
        from_json({"certificate": "c", "private_key": "k"}, CertificateBundle)


@pytest.mark.parametrize("value", [b"bytes", object(), {1: "x"}, float("nan"), [float("inf")], {"x": {b"k": 1}}])
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(TypeError):
        to_json(value)


@pytest.mark.parametrize(
    "change",
    [{"address": None}, {"protocol_port": "80"}, {"protocol_port": True}, {"enabled": 1}, {"operating_status": "FINE"}],
)
def test_a_value_of_the_wrong_kind_is_refused_in_words(change):
    data = to_json(attrs.evolve(TREE.pools[0].members[0])) | change
    with pytest.raises(ValueError, match="Member"):
        from_json(data, Member)
