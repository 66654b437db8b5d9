"""Laws: whatever the API accepts, HAProxy accepts; whatever users write stays one word; the same tree, the same bytes."""

from __future__ import annotations

import re

import attrs
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from octavia_core.domain.amphora import Amphora
from octavia_core.domain.tree import L7Policy, L7Rule
from octavia_core.domain.vocabulary import AmphoraStatus, CompareType, L7Action, L7RuleType, ListenerProtocol
from octavia_core.errors import PermanentError
from octavia_core.ports.amphora import Delivery, Material
from octavia_core.settings import Settings
from octavia_haproxy.render.config import configure
from octavia_haproxy.render.held import read_back
from octavia_haproxy.render.model import Facts
from octavia_haproxy.render.words import line, quote, unquote
from tests.support.running import Echo, ask, check, check_together, running
from tests.support.strategies import SNIPPETS, hostile_text, load_balancers, token
from tests.support.trees import PORT, behind, listener, load_balancer, new_id, pool

A, B = (
    Amphora(id=id, status=AmphoraStatus.ALLOCATED, vrrp_ip=ip)
    for id, ip in (("amp-a", "10.0.0.5"), ("amp-b", "10.0.0.6"))
)
HARD_WORK = 600
"""Seconds for a law that draws many large trees, or starts many programs: half a minute of work, and no more than a part of
a processor to do it with.
"""
GROUP_LINE = re.compile(r"\s+group\s.+")
"""What upstream's agent cuts out of each configuration it receives (agent API 4.5)."""


def secrets(lb, authority):
    """All that a load balancer refers to, each ref as what it is used for."""
    bundles = {ref: authority.ready_made[index % 4] for index, ref in enumerate(lb.secret_refs())}
    crl = {found.client_crl_container_id for found in lb.listeners} | {found.crl_container_id for found in lb.pools}
    return Material(
        bundles=bundles,
        payloads={ref: authority.empty_revocation_list if ref in crl else authority.pem for ref in lb.secret_refs()},
    )


@pytest.mark.timeout(HARD_WORK)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(lb=load_balancers())
def test_haproxy_accepts_every_load_balancer(lb, authority):
    wanted = configure(Delivery(load_balancer=lb, amphora=A), Settings(), Facts())
    if wanted.text is not None:
        assert check(lb, secrets(lb, authority)) == ""


MANY = 10_000
TOGETHER = 25


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_haproxy_accepts_ten_thousand_load_balancers(authority):
    """Several in one start of HAProxy; of a group that is refused each is asked about alone."""
    group = []

    def judge():
        if check_together(group) != "":
            assert [complaint for lb, material in group if (complaint := check(lb, material))] == []
        group.clear()

    @settings(
        max_examples=MANY,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(lb=load_balancers())
    def collect(lb):
        if configure(Delivery(load_balancer=lb, amphora=A), Settings(), Facts()).text is not None:
            group.append((lb, secrets(lb, authority)))
        if len(group) >= TOGETHER:
            judge()

    collect()
    judge()


@pytest.mark.timeout(HARD_WORK)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(lb=load_balancers(), version=st.sampled_from([(1, 5), (1, 8), (2, 0), (2, 6), (3, 2)]))
def test_the_same_tree_gives_the_same_bytes_and_upstream_s_agent_changes_none(lb, version):
    delivery = Delivery(load_balancer=lb, amphora=A, peers=(B,))
    first = configure(delivery, Settings(), Facts(haproxy_version=version))
    again = configure(attrs.evolve(delivery), Settings(), Facts(haproxy_version=version))
    assert first == again
    if first.text is not None:
        assert GROUP_LINE.search(first.text) is None
        assert all(word for text in first.text.split("\n") for word in unquote(text))
        read_back(first.text, "/var/lib/octavia/certs/x")


@given(words=st.lists(hostile_text, min_size=1, max_size=5))
@example(words=["group"])
@example(words=["x group y", "group"])
@example(words=["it's \\ \" # $HOME"])
def test_a_line_is_read_back_word_by_word(words):
    written = line(*words)
    assert unquote(written) == words
    assert "\n" not in written
    assert GROUP_LINE.search(f"\n{written}\n    next") is None


@pytest.mark.parametrize("code", [*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, 0xD800])
def test_control_characters_are_never_written(code):
    with pytest.raises(ValueError, match="control character"):
        quote(f"a{chr(code)}b")


def test_a_quote_that_is_not_closed_is_no_line():
    for text in ("a 'b", 'a "b', "'", "a'b'c\"d"):
        with pytest.raises(ValueError, match="not closed"):
            unquote(text)


@pytest.mark.timeout(HARD_WORK)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(texts=st.lists(hostile_text, min_size=1, max_size=60, unique=True))
@example(texts=sorted(SNIPPETS))
def test_haproxy_itself_reads_the_words_that_were_meant(texts):
    """Each text becomes a word of a rule that answers with it: what comes back is what HAProxy understood."""
    rules = "".join(
        line(
            "http-request", "return", "content-type", "text/plain", "string", text, "if", "{", "path", f"/{index}", "}"
        )
        + "\n"
        for index, text in enumerate(texts)
    )
    with running(load_balancer(listener()), replacing={"    mode http\n": f"    mode http\n{rules}"}) as served:
        for index, text in enumerate(texts):
            assert ask(served.address, PORT, f"/{index}").body.decode() == text


printable = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=12)
values = (hostile_text | printable).map(str.strip).filter(
    lambda text: text.isascii() and text.isprintable() and text and "," not in text
)  # fmt: skip


@pytest.mark.timeout(HARD_WORK)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(cases=st.lists(st.tuples(token, values), min_size=1, max_size=25, unique_by=lambda case: case[0].lower()))
@example(
    cases=[("X-'s", "-f"), ("X'", "--"), ("a$HOME", "a group b"), ("b", "it's"), ("c", '"'), ("d", "\\"), ("e", "#")]
)
def test_a_header_rule_matches_exactly_the_hostile_value_it_names(cases):
    """Header names and values of any kind: the rule fires for them and for nothing next to them."""
    special = {"host", "connection", "content-length", "transfer-encoding", "upgrade", "expect", "te", "keep-alive"}
    cases = [(name, value) for name, value in cases if name.lower() not in special]
    policies = tuple(
        L7Policy(
            id=new_id(),
            action=L7Action.REJECT,
            rules=(
                L7Rule(id=new_id(), type=L7RuleType.HEADER, compare_type=CompareType.EQUAL_TO, key=name, value=value),
            ),
        )
        for name, value in cases
    )
    with Echo("m") as member:
        p = pool(behind(member))
        with running(load_balancer(listener(p, l7policies=policies), p)) as served:
            for name, value in cases:
                assert ask(served.address, PORT, headers=[(name, value)]).status == 403, (name, value)
                assert ask(served.address, PORT, headers=[(name, f"{value}x")]).status == 200, (name, value)


EVIL = "evil.invalid"
"""Nothing that is drawn is called so. Any address may be that of a member one day."""
TEXT_FIELDS = ("value", "key", "redirect_url", "redirect_prefix", "url_path", "domain_name", "cookie_name")


@pytest.mark.timeout(HARD_WORK)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    lb=load_balancers(kinds=(ListenerProtocol.HTTP,)),
    poison=st.sampled_from(["\n", "\r", "\0", "\x0b", "\x1c", "\x7f", "\x85", "\u2028"]),
    text=hostile_text,
)
def test_a_control_character_in_any_text_is_refused_or_never_written(lb, poison, text):
    """Every text of the tree is poisoned at once: either the refusal names the object, or no place shows it."""

    def poisoned(node):
        changes = {name: f"{text}{poison}server evil {EVIL}:6666" for name in TEXT_FIELDS if getattr(node, name, None)}
        return attrs.evolve(node, **changes)

    bad = attrs.evolve(
        lb,
        project_id=None,
        listeners=tuple(
            attrs.evolve(
                found,
                l7policies=tuple(
                    attrs.evolve(poisoned(policy), rules=tuple(map(poisoned, policy.rules)))
                    for policy in found.l7policies
                ),
            )
            for found in lb.listeners
        ),
        pools=tuple(
            attrs.evolve(
                found,
                health_monitor=found.health_monitor and poisoned(found.health_monitor),
                session_persistence=found.session_persistence and poisoned(found.session_persistence),
            )
            for found in lb.pools
        ),
    )
    try:
        wanted = configure(Delivery(load_balancer=bad, amphora=A), Settings(), Facts())
    except PermanentError as refusal:
        assert re.match(r"(L7 rule|L7 policy|health monitor|pool) [0-9a-f-]{36}: ", str(refusal))
    else:
        assert EVIL not in (wanted.text or "")
