"""What a caller without a type checker hands to the controller: BadRequest and one sentence, whatever the method."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from octavia_core import Controller, NewListener, NewLoadBalancer
from octavia_core.controller.state import prepare_state
from octavia_core.domain.vocabulary import Kind, ListenerProtocol
from octavia_core.errors import BadRequest
from tests.controller.test_adopt import NOOP


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    path = Path(prepare_state(tmp_path_factory.mktemp("bad") / "state").path)
    (path / "octavia.toml").write_text(NOOP)
    with Controller.open(path, run=False) as controller:
        yield controller


@pytest.mark.parametrize("id", [2**70, [], {}, None, b"web", "caf\udce9", "a\0b", "", "nobody", "x" * 100_000])
@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("update_load_balancer", {}),
        ("delete_load_balancer", {}),
        ("failover_load_balancer", {}),
        ("failover_amphora", {}),
        ("load_balancer", {}),
        ("amphora", {}),
        ("operation", {}),
        ("why", {}),
        ("timeline", {}),
        ("set_members", {"wishes": []}),
        ("create_listener", {"wish": NewListener(protocol=ListenerProtocol.HTTP, protocol_port=80)}),
    ],
)
def test_an_id_that_cannot_be_is_refused_in_one_sentence(
    control: Controller, method: str, more: dict[str, Any], id: Any
) -> None:
    with pytest.raises(BadRequest) as caught:
        getattr(control, method)(id, **more)
    str(caught.value).encode()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("id", [2**70, [], None, "\udcff"])
def test_what_takes_a_kind_refuses_it_as_well(control: Controller, id: Any) -> None:
    for method in (control.update, control.delete, control.resolve):
        with pytest.raises(BadRequest, match=r"(id|name_or_id) is "):
            method(Kind.LISTENER, id)


@pytest.mark.parametrize("wish", [None, {}, "web", 2**70])
def test_a_wish_that_is_none_is_refused(control: Controller, wish: Any) -> None:
    for ask in (control.create_load_balancer, control.apply):
        with pytest.raises(BadRequest, match="but must be a NewLoadBalancer"):
            ask(wish)
    for below in (control.create_listener, control.create_pool, control.create_member):
        with pytest.raises(BadRequest, match="but must be a New"):
            below("web", wish)
    with pytest.raises(BadRequest, match="one of wishes is"):
        control.set_members("pool", [wish])
    with pytest.raises(BadRequest, match="wishes is of type int"):
        control.set_members("pool", 5)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["\ud800", "a\0b", "x" * 300, ["web"], b"web", None, ""])
def test_a_name_that_none_can_have_is_refused_before_it_is_looked_for(control: Controller, name: Any) -> None:
    with pytest.raises(BadRequest, match=r"name is|a name") as caught:
        control.apply(NewLoadBalancer(name=name))
    str(caught.value).encode()
    assert len(str(caught.value)) < 500


def test_an_absent_load_balancer_means_all_of_them(control: Controller) -> None:
    assert list(control.amphorae(None)) == []
    assert list(control.operations(load_balancer_id=None)) == []
