"""The call of ours: a configuration is run, kept and read back in one request, or nothing is done at all."""

from __future__ import annotations

import hashlib

from octavia_local.agent.api import APPLIED
from tests.local_agent.rig import Answer, Member, Rig, Server, config, get

TWO = ("one", "two")


Pair = tuple[Member, Member]


def text_of(rig: Rig, members: Pair, *names: str) -> str:
    return config(rig, [Server(member.name, member.port) for member in members if member.name in names])


def apply(rig: Rig, text: str, **headers: str) -> Answer:
    return rig.ask("PUT", f"/1.0/loadbalancer/{rig.amphora_id}/{rig.lb}/apply", text, **headers)


def etag_of(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def held(rig: Rig) -> tuple[str, str]:
    """What the agent keeps, and what it noted that runs."""
    home = rig.root / "var/lib/octavia"
    return (home / rig.lb / "haproxy.cfg").read_text(), (home / "certs" / rig.lb / APPLIED).read_text()


def test_one_request_runs_keeps_and_notes_a_configuration(rig: Rig, members: Pair) -> None:
    text = text_of(rig, members, "one")
    answer = apply(rig, text)
    assert (answer.status, answer.json["changed"], answer.headers["etag"]) == (200, True, etag_of(text))
    assert get(rig.vip) == "one"
    assert held(rig) == (text, etag_of(text))
    first = rig.haproxies()
    more = text_of(rig, members, *TWO)
    assert apply(rig, more, If_Match=etag_of(text), X_Octavia_Haproxy=rig.facts["haproxy_version"]).status == 200
    assert {get(rig.vip) for _ in range(8)} == set(TWO)
    assert rig.haproxies() == first  # a member that comes needs no other process
    again = apply(rig, more, If_Match=etag_of(more))
    assert (again.status, again.json["changed"]) == (200, False)


def test_what_is_taken_for_granted_and_is_not_so_changes_nothing(rig: Rig, members: Pair) -> None:
    text = text_of(rig, members, "one")
    other = text_of(rig, members, "two")
    assert apply(rig, text, If_Match=etag_of(other)).status == 412  # it holds nothing
    apply(rig, text)
    before = held(rig)
    for conditions in ({"If_Match": etag_of(other)}, {"If_Match": etag_of(text), "X_Octavia_Haproxy": "1.0.0"}):
        assert apply(rig, other, **conditions).status == 412
    assert (held(rig), get(rig.vip)) == (before, "one")
    # uploaded, and not run yet: nobody knows what runs
    rig.ask("PUT", f"/1.0/loadbalancer/{rig.amphora_id}/{rig.lb}/haproxy", other)
    assert apply(rig, text, If_Match=etag_of(other)).status == 412


def test_a_configuration_that_cannot_be_run_leaves_everything_as_it_was(rig: Rig, members: Pair) -> None:
    text = text_of(rig, members, "one")
    assert apply(rig, "frontend f\n    mode nonsense\n").status == 400
    apply(rig, text)
    before, running = held(rig), rig.haproxies()
    for bad in (text + "frontend f\n    mode nonsense\n", text.replace("balance roundrobin", "balance nonsense")):
        refused = apply(rig, bad, If_Match=etag_of(text))
        assert refused.status == 400
        assert refused.json["details"]  # in HAProxy's words
        assert (held(rig), rig.haproxies(), get(rig.vip)) == (before, running, "one")


def test_what_was_applied_is_served_by_the_next_agent(rig: Rig, members: Pair) -> None:
    text = text_of(rig, members, "two")
    apply(rig, text)
    rig.kill()
    rig.start()
    assert get(rig.vip) == "two"
    assert apply(rig, text, If_Match=etag_of(text)).json["changed"] is False
