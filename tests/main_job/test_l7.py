"""L7 policies and rules, asked for through the facade: every type, comparison and action, seen in requests."""

from __future__ import annotations

import pytest

from octavia_core import NewL7Policy, NewL7Rule, NewListener, NewPool
from octavia_core.domain.vocabulary import (
    ClientAuthentication,
    Kind,
    L7Action,
    L7RuleType,
    ListenerProtocol,
    Operating,
)
from octavia_core.errors import BadRequest
from tests.haproxy.certificates import Authority
from tests.main_job.stage import PATIENCE, behind, http
from tests.support.l7 import CASES, COOKIE, EQUAL, HEADER, PATH, REGEX, STARTS, request
from tests.support.running import Echo


def rule(type, compare, value, **options):
    return NewL7Rule(type=type, compare_type=compare, value=value, **options)


def reject(*rules, **options):
    return NewL7Policy(action=L7Action.REJECT, rules=rules, **options)


def test_each_rule_matches_what_it_says_and_nothing_else(stage):
    with Echo("one") as one:
        lb = stage.build(http(*behind(one), l7policies=[reject(NewL7Rule(**case.rule)) for case in CASES]))
        for case in CASES:
            assert stage.ask(lb, **request(case.hit)).status == 403, case
            assert stage.ask(lb, **request(case.miss)).status == 200, case
        policies = lb.listeners[0].l7policies
        assert [policy.position for policy in policies] == list(range(1, len(CASES) + 1))
        assert {policy.operating_status for policy in policies} == {Operating.ONLINE}
        # turned round, a rule matches what it did not
        turned = next(p for p in policies if p.rules[0].value == "/admin")
        stage.update(Kind.L7RULE, turned.rules[0].id, invert=True)
        assert stage.ask(lb, "/admin/x").status == 200
        assert stage.ask(lb, "/elsewhere").status == 403
        stage.update(Kind.L7POLICY, turned.id, enabled=False)
        assert stage.ask(lb, "/elsewhere").status == 200


def test_each_action_does_what_it_says_and_all_rules_must_match(stage):
    url = "https://example.com/x?a=1&b=%20'two'#three"

    def where(path, **options):
        return {"rules": [rule(PATH, STARTS, path)], **options}

    with Echo("default") as default, Echo("other") as other, Echo("third") as third:
        policies = [
            NewL7Policy(action=L7Action.REDIRECT_TO_URL, redirect_url=url, **where("/to-url")),
            NewL7Policy(
                action=L7Action.REDIRECT_PREFIX,
                redirect_prefix="https://new.example.com",
                redirect_http_code=308,
                **where("/moved"),
            ),
            NewL7Policy(action=L7Action.REDIRECT_TO_POOL, redirect_pool_id="other", **where("/other")),
            NewL7Policy(
                action=L7Action.REDIRECT_TO_POOL, redirect_pool=NewPool(members=behind(third)), **where("/third")
            ),
            reject(rule(PATH, STARTS, "/shut"), rule(HEADER, EQUAL, "yes", key="X-Let-In", invert=True)),
        ]
        pools = [NewPool(name="other", protocol="HTTP", members=behind(other))]
        lb = stage.build(http(*behind(default), l7policies=policies), pools=pools)
        found = stage.ask(lb, "/to-url")
        assert (found.status, found.headers["location"]) == (302, url)
        found = stage.ask(lb, "/moved/here?x=1")
        assert (found.status, found.headers["location"]) == (308, "https://new.example.com/moved/here?x=1")
        assert stage.ask(lb, "/other/thing").member == "other"
        assert stage.ask(lb, "/third").member == "third"
        assert stage.ask(lb, "/shut").status == 403
        assert stage.ask(lb, "/shut", headers=[("X-Let-In", "yes")]).member == "default"
        assert stage.ask(lb).member == "default"


def test_rules_about_client_certificates(stage, authority):
    clients = Authority()
    stage.put_secret("www", authority.issue("www.test"))
    stage.put_payload("clients", clients.pem)
    policies = [
        reject(rule(L7RuleType.SSL_DN_FIELD, EQUAL, "unwanted", key="CN")),
        reject(rule(L7RuleType.SSL_CONN_HAS_CERT, EQUAL, "True", invert=True)),
        reject(rule(L7RuleType.SSL_VERIFY_RESULT, EQUAL, "0", invert=True)),
    ]
    with Echo("one") as one:
        lb = stage.build(
            NewListener(
                protocol=ListenerProtocol.TERMINATED_HTTPS,
                protocol_port=8443,
                tls_certificate_id="www",
                client_ca_tls_certificate_id="clients",
                client_authentication=ClientAuthentication.OPTIONAL,
                default_pool=NewPool(members=behind(one)),
                l7policies=policies,
            )
        )

        def ask(common_name):
            bundle = clients.issue("client", common_name=common_name) if common_name else None
            return stage.ask(lb, tls=authority.client_context(bundle), name="www.test").status

        assert [ask("welcome"), ask("unwanted"), ask(None)] == [200, 403, 403]


def test_a_rule_that_makes_no_sense_is_refused_by_its_name_and_changes_nothing(stage):
    with Echo("one") as one:
        lb = stage.build(http(*behind(one), l7policies=[reject(rule(PATH, EQUAL, "/x"))]))
        policy = lb.listeners[0].l7policies[0]
        for bad, said in (
            (rule(PATH, EQUAL, "/x\n  server evil 1.2.3.4:80"), "value"),
            (rule(PATH, REGEX, "(["), "value"),
            (rule(HEADER, EQUAL, "x"), "key"),
            (rule(COOKIE, EQUAL, "x", key="a b"), "key"),
            (rule(L7RuleType.SSL_VERIFY_RESULT, EQUAL, "0"), "type"),
        ):
            with pytest.raises(BadRequest, match=said):
                stage.controller.create_l7rule(policy.id, bad)
        with pytest.raises(BadRequest, match="redirect_url"):
            wish = NewL7Policy(action=L7Action.REDIRECT_TO_URL)
            stage.controller.create_l7policy(lb.listeners[0].id, wish, wait=PATIENCE)
        assert stage.ask(lb, "/x").status == 403
