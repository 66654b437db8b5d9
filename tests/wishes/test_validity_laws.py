"""Laws of validity: what makes sense passes; whatever else there is in any attribute ends in one sentence."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octavia_core.domain.operation import Subject
from octavia_core.domain.tree import HealthMonitor, L7Policy, L7Rule, Listener, LoadBalancer, Member, Pool
from octavia_core.domain.vocabulary import Kind, ListenerProtocol, MonitorType, PoolProtocol, Provisioning
from octavia_core.errors import BadRequest
from octavia_core.policy import validity
from tests.wishes.strategies import trees

relaxed = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large], deadline=None)

junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=5),
    st.sampled_from(
        [*ListenerProtocol, *PoolProtocol, *MonitorType, "HTTP", "10.0.0.0/8", "::1%eth0", "[", "\\", "(?"]
    ),
    st.lists(st.text(max_size=5), max_size=3),
    st.lists(st.text(max_size=5), max_size=3).map(tuple),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
    st.builds(object),
    st.builds(set),
    st.just(10**5000),
)


@relaxed
@given(trees())
def test_what_makes_sense_passes(tree: LoadBalancer) -> None:
    validity.check(tree)
    validity.check(tree, ())


def everything(tree: LoadBalancer) -> list[Any]:
    return [tree, tree.vip, *(node for _, node in tree.nodes())]


def replaced(tree: Any, old: Any, new: Any) -> Any:
    """The same tree with one object exchanged, wherever it is."""
    if tree is old:
        return new
    if isinstance(tree, tuple):
        return tuple(replaced(one, old, new) for one in tree)
    if isinstance(tree, (LoadBalancer, Listener, Pool, Member, HealthMonitor, L7Policy, L7Rule)):
        values = {}
        for field in attrs.fields(type(tree)):
            value = getattr(tree, field.name)
            if value is old or isinstance(value, tuple) or attrs.has(type(value)):
                values[field.name] = replaced(value, old, new)
        return attrs.evolve(tree, **values)
    return tree


@relaxed
@given(trees(), st.data(), junk)
def test_any_value_of_any_attribute_is_accepted_or_refused_in_one_sentence(
    tree: LoadBalancer, data: st.DataObject, value: object
) -> None:
    node = data.draw(st.sampled_from(everything(tree)))
    field = data.draw(st.sampled_from([field.name for field in attrs.fields(type(node))]))
    broken = replaced(tree, node, attrs.evolve(node, **{field: value}))
    for subjects in (None, ()):
        try:
            validity.check(broken, subjects)
        except BadRequest as refused:
            text = str(refused)
            assert text.isprintable()
            assert len(text) < 700
            assert "but must be" in text


@relaxed
@given(trees(), st.data())
def test_an_object_that_is_broken_already_refuses_no_wish_about_another(
    tree: LoadBalancer, data: st.DataObject
) -> None:
    settled = attrs.evolve(tree, provisioning_status=Provisioning.PENDING_UPDATE)
    for _, node in tree.nodes():
        active = attrs.evolve(_current(settled, node.id), provisioning_status=Provisioning.ACTIVE)
        settled = replaced(settled, _current(settled, node.id), active)
    nodes = list(settled.nodes())
    if not nodes:
        return
    kind, node = data.draw(st.sampled_from(nodes))
    broken = replaced(
        settled, node, attrs.evolve(node, name="\n") if hasattr(node, "name") else attrs.evolve(node, value="")
    )
    validity.check(broken, ())
    validity.check(broken, (Subject(Kind.LOAD_BALANCER, tree.id),))
    with pytest.raises(BadRequest, match=r"name|value"):
        validity.check(broken, (Subject(kind, node.id),))


def _current(tree: LoadBalancer, id: str) -> Any:
    return next(node for _, node in tree.nodes() if node.id == id)
