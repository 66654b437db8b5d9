"""What is counted of all amphorae when one row changes is what counting all anew would say."""

from __future__ import annotations

from collections import Counter

import attrs
from hypothesis import given
from hypothesis import strategies as st

from octavia_core.controller.health.places import domains
from octavia_core.controller.health.watched import Watched
from octavia_core.domain.vocabulary import AmphoraStatus
from octavia_core.ports.hearts import Liveness

IDS = ("a", "b", "c")
ROWS = st.builds(
    Liveness,
    amphora_id=st.sampled_from(IDS),
    load_balancer_id=st.just("lb"),
    status=st.sampled_from([AmphoraStatus.ALLOCATED, AmphoraStatus.FAILOVER_STOPPED]),
    compute_id=st.sampled_from([None, "s", "t"]),
    last_heard=st.sampled_from([None, 5, 50]),
    since=st.just(1),
    declared_dead=st.none(),
    busy=st.just(False),
    observer=st.sampled_from([None, "me", "x", "y"]),
    zone=st.sampled_from([None, "z"]),
    address=st.sampled_from([None, "10.0.0.1", "10.0.1.1"]),
    host=st.sampled_from([None, "h"]),
)


@given(st.lists(ROWS | st.sampled_from(IDS), max_size=30))
def test_all_counts_follow_every_change(changes: list[Liveness | str]) -> None:
    here, hearts = Watched(), dict[str, Liveness]()
    for change in changes:
        if isinstance(change, str):
            here.drop([change])
            hearts.pop(change, None)
        else:
            here.put([change])
            hearts[change.amphora_id] = change
    assert here.hearts == hearts
    assert here.places == Counter(place for heart in hearts.values() for place in domains(heart).items())
    assert here.stopped == {id for id, heart in hearts.items() if heart.status is AmphoraStatus.FAILOVER_STOPPED}
    assert here.unwritten == {id for id, heart in hearts.items() if heart.last_heard is None}
    assert here.strangers == set(hearts)
    assert set(here.servers) <= {heart.compute_id for heart in hearts.values()}
    for observer in ("x", "y"):
        times = [heart.last_heard or 0 for heart in hearts.values() if heart.observer == observer]
        wanted = (len(times), sum(at >= 50 for at in times)) if times else None
        assert here.heard_by(50, but="me").get(observer) == wanted


def test_who_goes_and_comes_again_is_a_stranger_anew() -> None:
    here = Watched()
    heart = Liveness(
        amphora_id="a", load_balancer_id=None, status=AmphoraStatus.ALLOCATED, compute_id="s", last_heard=1, since=1,
        declared_dead=None, busy=False,
    )  # fmt: skip
    here.put([heart])
    here.strangers.clear()
    here.put([attrs.evolve(heart, last_heard=2)])
    assert here.strangers == set()
    here.drop(["a", "b"])
    here.put([heart])
    assert (here.strangers, here.servers) == ({"a"}, {"s": "a"})
