"""L7 policies and rules, shown by requests through HAProxy."""

from __future__ import annotations

import itertools

import pytest

from octavia_core.domain.tree import L7Policy, L7Rule
from octavia_core.domain.vocabulary import L7Action, L7RuleType, Provisioning
from octavia_core.errors import PermanentError
from tests.support.l7 import (
    CASES,
    COMPARES,
    CONTAINS,
    COOKIE,
    ENDS,
    EQUAL,
    HEADER,
    PATH,
    STARTS,
    TYPES,
    request,
)
from tests.support.running import Echo, ask, materialise, running
from tests.support.trees import PORT, behind, listener, load_balancer, new_id, pool

pytestmark = pytest.mark.usefixtures("served_by")


def rule(type, compare, value, **options):
    return L7Rule(id=new_id(), type=type, compare_type=compare, value=value, **options)


def reject(*rules, **options):
    return L7Policy(id=new_id(), action=L7Action.REJECT, rules=rules, **options)


@pytest.mark.feature(
    "l7rule.type=HOST_NAME", "l7rule.type=PATH", "l7rule.type=FILE_TYPE", "l7rule.type=HEADER", "l7rule.type=COOKIE",
    "l7rule.compare_type=REGEX", "l7rule.compare_type=STARTS_WITH", "l7rule.compare_type=ENDS_WITH",
    "l7rule.compare_type=CONTAINS", "l7rule.compare_type=EQUAL_TO", "l7rule.key", "l7rule.value",
    "l7policy.action=REJECT", "l7policy.rules", "listener.l7policies",
)  # fmt: skip
def test_each_rule_matches_what_it_says_and_nothing_else():
    with Echo("m") as member:
        p = pool(behind(member))
        policies = tuple(reject(L7Rule(id=new_id(), **one.rule), position=at) for at, one in enumerate(CASES, 1))
        with running(load_balancer(listener(p, l7policies=policies), p)) as served:
            for one in CASES:
                assert ask(served.address, PORT, **request(one.hit)).status == 403, one
                assert ask(served.address, PORT, **request(one.miss)).status == 200, one


@pytest.mark.feature("l7rule.invert")
def test_each_rule_turned_round_matches_what_it_did_not():
    """Each asks for a header of its own as well, or the first one would turn everybody away."""
    policies = tuple(
        reject(L7Rule(id=new_id(), invert=True, **one.rule), rule(HEADER, EQUAL, str(at), key="X-Case"), position=at)
        for at, one in enumerate(CASES, 1)
    )
    with Echo("m") as member:
        p = pool(behind(member))
        with running(load_balancer(listener(p, l7policies=policies), p)) as served:
            for at, one in enumerate(CASES, 1):
                case = ("X-Case", str(at))
                assert ask(served.address, PORT, **request(one.hit, case)).status == 200, one
                assert ask(served.address, PORT, **request(one.miss, case)).status == 403, one


def test_no_type_and_comparison_that_there_is_was_forgotten():
    """A file's type is compared by equality and by pattern only, as upstream's API has it."""
    of_files = {(L7RuleType.FILE_TYPE, compare) for compare in (STARTS, ENDS, CONTAINS)}
    assert {(one.type, one.compare_type) for one in CASES} == {*itertools.product(TYPES, COMPARES)} - of_files


@pytest.mark.feature(
    "l7policy.action=REDIRECT_TO_URL", "l7policy.action=REDIRECT_PREFIX", "l7policy.action=REDIRECT_TO_POOL",
    "l7policy.redirect_url", "l7policy.redirect_prefix", "l7policy.redirect_pool_id", "l7policy.redirect_http_code",
    "load_balancer.pools",
)  # fmt: skip
def test_each_action_does_what_it_says():
    url = "https://example.com/x?a=1&b=%20'two'#\"three\""
    with Echo("default") as default, Echo("other") as other:
        p, q = pool(behind(default)), pool(behind(other))
        policies = (
            L7Policy(
                id=new_id(), action=L7Action.REDIRECT_TO_URL, redirect_url=url, rules=(rule(PATH, EQUAL, "/to-url"),)
            ),
            L7Policy(
                id=new_id(), action=L7Action.REDIRECT_PREFIX, redirect_prefix="https://new.example.com", position=2,
                redirect_http_code=308, rules=(rule(PATH, STARTS, "/moved"),),
            ),
            L7Policy(
                id=new_id(), action=L7Action.REDIRECT_TO_POOL, redirect_pool_id=q.id, position=3,
                rules=(rule(PATH, STARTS, "/other"),),
            ),
        )  # fmt: skip
        with running(load_balancer(listener(p, l7policies=policies), p, q)) as served:
            found = ask(served.address, PORT, "/to-url")
            assert (found.status, found.headers["location"]) == (302, url)
            found = ask(served.address, PORT, "/moved/here?x=1")
            assert (found.status, found.headers["location"]) == (308, "https://new.example.com/moved/here?x=1")
            assert ask(served.address, PORT, "/other/thing").member == "other"
            assert ask(served.address, PORT, "/").member == "default"


@pytest.mark.feature("l7rule.invert", "l7rule.enabled", "l7policy.enabled")
def test_rules_of_a_policy_are_all_needed_inverted_ones_must_not_match_and_disabled_ones_do_not_count():
    policies = (
        reject(rule(PATH, STARTS, "/a"), rule(HEADER, EQUAL, "yes", key="X-Let-In", invert=True)),
        reject(rule(PATH, STARTS, "/b"), rule(PATH, ENDS, "never", enabled=False), position=2),
        reject(rule(PATH, STARTS, "/c"), position=3, enabled=False),
        reject(rule(PATH, STARTS, "/d", enabled=False), position=4),
    )
    with Echo("m") as member:
        p = pool(behind(member))
        with running(load_balancer(listener(p, l7policies=policies), p)) as served:
            assert ask(served.address, PORT, "/a").status == 403
            assert ask(served.address, PORT, "/a", headers=[("X-Let-In", "yes")]).status == 200
            assert ask(served.address, PORT, "/b").status == 403
            assert ask(served.address, PORT, "/c").status == 200
            assert ask(served.address, PORT, "/d").status == 200


@pytest.mark.feature("l7policy.position")
def test_the_first_policy_of_a_kind_wins_and_refusals_come_before_redirects_before_pools(served_by):
    def to(url, position):
        return L7Policy(
            id=new_id(), action=L7Action.REDIRECT_TO_URL, redirect_url=url, position=position, rules=(rule(PATH, STARTS, "/x"),)
        )  # fmt: skip

    with Echo("default") as default, Echo("other") as other:
        p, q = pool(behind(default)), pool(behind(other))
        policies = (
            L7Policy(
                id=new_id(), action=L7Action.REDIRECT_TO_POOL, redirect_pool_id=q.id, rules=(rule(PATH, STARTS, "/"),)
            ),
            to("https://third.example.com", 3),
            to("https://second.example.com", 2),
            reject(rule(PATH, EQUAL, "/x/no"), position=4),
        )
        with running(load_balancer(listener(p, l7policies=policies), p, q)) as served:
            assert ask(served.address, PORT, "/x/no").status == 403
            assert ask(served.address, PORT, "/x").headers["location"] == "https://second.example.com"
            assert ask(served.address, PORT, "/").member == "other"
            if served_by == "haproxy":
                output = (served.folder / "output").read_text()
                assert "processed before" not in output  # as HAProxy warns of rules whose order is not what it seems


def test_policies_and_rules_that_are_being_deleted_are_left_out(tmp_path):
    gone = Provisioning.PENDING_DELETE
    policies = (
        reject(rule(PATH, STARTS, "/kept"), rule(PATH, STARTS, "/gone-rule", provisioning_status=gone)),
        reject(rule(PATH, STARTS, "/gone-policy"), position=2, provisioning_status=gone),
    )
    text = materialise(load_balancer(listener(l7policies=policies)), tmp_path).text
    assert "/kept" in text
    assert "/gone" not in text


def test_a_policy_whose_pool_is_disabled_or_gone_does_nothing(tmp_path):
    for target in (pool(enabled=False), pool(provisioning_status=Provisioning.PENDING_DELETE)):
        policy = L7Policy(
            id=new_id(), action=L7Action.REDIRECT_TO_POOL, redirect_pool_id=target.id, rules=(rule(PATH, STARTS, "/x"),)
        )
        text = materialise(load_balancer(listener(l7policies=(policy,)), target), tmp_path).text
        assert "use_backend" not in text
        assert "acl" not in text
        assert "backend" not in text.replace("default_backend", "")


def test_two_listeners_with_one_pool_have_a_backend_each(tmp_path):
    p = pool()
    one, two = listener(p), listener(p, protocol_port=PORT + 1)
    text = materialise(load_balancer([one, two], p), tmp_path).text
    assert f"\nbackend {p.id}:{one.id}\n" in text
    assert f"\nbackend {p.id}:{two.id}\n" in text


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (rule(PATH, EQUAL, "/x\n  server evil 1.2.3.4:80"), "value holds a control character"),
        (rule(PATH, EQUAL, ""), "value is empty"),
        (rule(HEADER, EQUAL, "x", key="X) -m str a"), "is not a valid name"),
        (rule(HEADER, EQUAL, "x"), "is not a valid name"),
        (rule(COOKIE, EQUAL, "x", key="a b"), "is not a valid name"),
        (rule(L7RuleType.SSL_VERIFY_RESULT, EQUAL, "many"), "is not a whole number"),
    ],
)
def test_a_rule_that_cannot_be_written_is_refused_by_its_id(bad, said, tmp_path):
    with pytest.raises(PermanentError, match=said) as caught:
        materialise(load_balancer(listener(l7policies=(reject(bad),))), tmp_path)
    assert bad.id in str(caught.value)


@pytest.mark.parametrize("url", ["https://a b", "https://a\r\nSet-Cookie: x", "", None, "https://a\x85"])
def test_a_redirect_that_cannot_be_written_is_refused_by_its_policy(url, tmp_path):
    policy = L7Policy(id=new_id(), action=L7Action.REDIRECT_TO_URL, redirect_url=url, rules=(rule(PATH, EQUAL, "/"),))
    with pytest.raises(PermanentError, match=f"L7 policy {policy.id}: redirect_url"):
        materialise(load_balancer(listener(l7policies=(policy,))), tmp_path)
