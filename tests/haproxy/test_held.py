"""What a push reads back of an amphora: the files of what serves stay while their secrets are gone, and no others do."""

from __future__ import annotations

import attrs
import pytest

from octavia_core.domain.amphora import Amphora
from octavia_core.domain.tree import L7Policy, L7Rule, Member
from octavia_core.domain.vocabulary import AmphoraStatus, CompareType, L7Action, L7RuleType, ListenerProtocol
from octavia_core.errors import AmphoraRefused
from octavia_core.ports.amphora import Delivery, Material
from octavia_haproxy.driver import APPLIED, HaproxyDriver
from tests.haproxy.agent import AMPHORA_ID, Agent, Reply, controller_settings
from tests.support.trees import listener, load_balancer, new_id, pool

ID = "0a0a0a0a-1111-4222-8333-444444444444"
UPLOAD = f"PUT /1.0/loadbalancer/{AMPHORA_ID}/{ID}/haproxy"
GONE = Material(missing={"own": "no secret 'own'", "ca": "no secret 'ca'"})


@pytest.fixture
def agent():
    with Agent() as found:
        yield found


@pytest.fixture
def push(agent, tmp_path):
    driver = HaproxyDriver(controller_settings(agent, tmp_path))
    amphora = Amphora(id=AMPHORA_ID, status=AmphoraStatus.ALLOCATED)

    def send(lb, material):
        return driver.push(agent.at, Delivery(load_balancer=lb, amphora=amphora, material=material))

    yield send
    driver.close()


@pytest.fixture
def own(authority):
    """The secrets of the pool that encrypts."""
    return Material(bundles={"own": authority.issue("own.test")}, payloads={"ca": authority.pem})


def to_pool(chosen):
    """A policy that chooses a pool."""
    rule = L7Rule(id=new_id(), type=L7RuleType.PATH, compare_type=CompareType.STARTS_WITH, value="/re")
    return L7Policy(id="pol", action=L7Action.REDIRECT_TO_POOL, redirect_pool_id=chosen.id, rules=(rule,))


MEMBER = Member(id="member-1", address="10.0.0.9", protocol_port=443)
PLAIN = pool([Member(id="member-2", address="10.0.0.9", protocol_port=80)], id="plain")
EMPTY = pool(id="re", tls_enabled=True, tls_certificate_id="own", ca_tls_certificate_id="ca")
ENCRYPTED = attrs.evolve(EMPTY, members=(MEMBER,))


def serving(encrypted, **options):
    """A listener with a pool in plain text, and a policy that chooses the other one."""
    one = listener(PLAIN, id="lis-1", l7policies=(to_pool(encrypted),), **options)
    return load_balancer(one, PLAIN, encrypted, id=ID)


def pem_files(agent):
    return {name for _, name in agent.files} - {APPLIED}


@pytest.mark.parametrize("members", [(), (MEMBER,)], ids=["empty", "with a member"])
def test_a_pool_that_goes_takes_its_key_with_it_even_when_it_had_no_members(members, agent, push, own):
    push(serving(ENCRYPTED), own)
    push(serving(attrs.evolve(EMPTY, members=members)), own)
    assert len(pem_files(agent)) == 2
    push(load_balancer(listener(PLAIN, id="lis-1"), PLAIN, id=ID), own)
    assert pem_files(agent) == set()


@pytest.mark.parametrize("default", [True, False], ids=["as default", "by a policy"])
def test_a_secret_of_an_empty_pool_that_vanishes_changes_nothing_and_its_next_member_is_spoken_to_with_it(
    default, agent, push, own
):
    def wanted(encrypted, **options):
        if not default:
            return serving(encrypted, **options)
        return load_balancer(listener(encrypted, id="lis-1", **options), encrypted, id=ID)

    push(wanted(EMPTY), own)
    files = dict(agent.files)
    pushed = push(wanted(EMPTY, connection_limit=9), GONE)
    assert (pushed.skipped_listeners, pushed.kept_listeners) == (("lis-1",), ("lis-1",))
    assert "maxconn 9\n" in agent.loaded[ID]
    assert pem_files(agent) == {name for _, name in files} - {APPLIED}
    assert push(wanted(ENCRYPTED), GONE).kept_listeners == ("lis-1",)
    line = next(line for line in agent.loaded[ID].split("\n") if "member-1" in line)
    assert " ssl crt " in line
    assert " verify required " in line


def test_a_pool_without_its_secret_takes_no_listener_with_it_that_can_serve_others(agent, push):
    """The amphora has nothing of it: a new one, or one whose files went with a reboot."""
    for encrypted in (EMPTY, ENCRYPTED):
        pushed = push(serving(encrypted), GONE)
        assert pushed.skipped_listeners == pushed.partial_listeners == ("lis-1",)
        assert "frontend lis-1\n" in agent.loaded[ID]
        assert "backend re:lis-1\n" in agent.loaded[ID]
        assert "member-2" in agent.loaded[ID]
        assert "member-1" not in agent.loaded[ID]  # never in plain text
    alone = listener(EMPTY, id="lis-1")
    assert push(load_balancer(alone, EMPTY, id=ID), GONE).partial_listeners == ("lis-1",)
    assert "frontend lis-1\n" in agent.loaded[ID]
    pushed = push(load_balancer(alone, ENCRYPTED, id=ID), GONE)
    assert (pushed.skipped_listeners, pushed.partial_listeners) == (("lis-1",), ())
    assert "lis-1" not in agent.loaded[ID]


def test_what_the_amphora_holds_of_a_pool_under_one_listener_serves_the_other_too(agent, push, own):
    first, second = listener(ENCRYPTED, id="lis-1"), listener(PLAIN, id="lis-2", protocol_port=81)
    push(load_balancer([first, second], PLAIN, ENCRYPTED, id=ID), own)
    second = attrs.evolve(second, l7policies=(to_pool(ENCRYPTED),))
    pushed = push(load_balancer([first, second], PLAIN, ENCRYPTED, id=ID), GONE)
    assert set(pushed.kept_listeners) == {"lis-1", "lis-2"}
    assert agent.loaded[ID].count("    server member-1 ") == 2
    assert agent.loaded[ID].count(" ssl crt ") == 2


@pytest.mark.parametrize("refused", ["upload", "certificate"])
def test_keys_of_a_configuration_that_is_refused_do_not_stay(refused, agent, push, own, authority):
    push(serving(ENCRYPTED), own)
    before, text = dict(agent.files), agent.loaded[ID]
    other = Material(bundles={"own": authority.issue("other.test")}, payloads=own.payloads)
    done = agent.do

    def fail(asked):
        sent = asked.method == "PUT" and "certificates" in str(asked)
        if str(asked) == UPLOAD if refused == "upload" else sent:
            done(asked) if sent else None
            return Reply(400, {"message": "Invalid request", "details": "[ALERT] key too small"})
        return done(asked)

    agent.do = fail
    with pytest.raises(AmphoraRefused, match="key too small"):
        push(serving(ENCRYPTED), other)
    agent.do = done
    assert {key: value for key, value in agent.files.items() if key[1] != APPLIED} == {
        key: value for key, value in before.items() if key[1] != APPLIED
    }
    assert agent.loaded[ID] == text


def test_the_chain_that_a_listener_goes_on_with_is_not_taken_from_it_by_another_with_the_same_certificate(
    agent, push, authority
):
    whole = authority.issue("www.test")
    whole = attrs.evolve(whole, intermediates=(authority.pem.strip(),))
    bare = attrs.evolve(whole, intermediates=())
    first, second = (
        listener(
            protocol=ListenerProtocol.TERMINATED_HTTPS, id=f"lis-{ref}", protocol_port=port, tls_certificate_id=ref
        )
        for ref, port in (("own", 443), ("bare", 444))
    )
    push(load_balancer(first, id=ID), Material(bundles={"own": whole}))
    certificates = {name: content for (_, name), content in agent.files.items() if b"PRIVATE KEY" in content}
    left = Material(bundles={"bare": bare}, missing=GONE.missing)
    assert push(load_balancer([first, second], id=ID), left).kept_listeners == ("lis-own",)
    assert {name: agent.files[ID, name] for name in certificates} == certificates
    assert not push(load_balancer([first, second], id=ID), left).changed
    push(load_balancer(second, id=ID), left)  # nobody needs the longer one now
    assert {agent.files[ID, name].count(b"BEGIN CERT") for name in certificates} == {1}
