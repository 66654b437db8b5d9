"""What a push sends, in which order, and what it leaves when it is cut off anywhere.

One file, since all of it is one conversation with one played agent, whose fixtures and requests each test shares.
"""

from __future__ import annotations

import random
import uuid

import attrs
import pytest

from octavia_core.domain.amphora import Amphora
from octavia_core.domain.tree import Member
from octavia_core.domain.vocabulary import (
    AmphoraStatus,
    ClientAuthentication,
    ListenerProtocol,
    Provisioning,
    Topology,
)
from octavia_core.errors import AmphoraRefused, AmphoraUnreachable, PermanentError, TransientError
from octavia_core.ports.amphora import Delivery, Material
from octavia_haproxy.driver import APPLIED, HaproxyDriver
from octavia_haproxy.render.held import read_back
from octavia_haproxy.render.names import peer_name
from tests.haproxy.agent import AMPHORA_ID, Agent, Asked, Reply, controller_settings, md5
from tests.support.trees import listener, load_balancer, pool

TLS = ListenerProtocol.TERMINATED_HTTPS
AMPHORA = Amphora(id=AMPHORA_ID, status=AmphoraStatus.ALLOCATED)
ID = "0a0a0a0a-1111-4222-8333-444444444444"
INFO, DETAILS, LISTED = "GET /1.0/info", "GET /1.0/details", "GET /1.0/listeners"
READ = f"GET /1.0/loadbalancer/{ID}/haproxy"
UPLOAD = f"PUT /1.0/loadbalancer/{AMPHORA_ID}/{ID}/haproxy"
RELOAD = f"PUT /1.0/loadbalancer/{ID}/reload"


def certificate(method, name):
    return f"{method} /1.0/loadbalancer/{ID}/certificates/{name}"


MARKED, MARK, UNMARK = (certificate(method, APPLIED) for method in ("GET", "PUT", "DELETE"))


@pytest.fixture
def agent():
    with Agent() as found:
        yield found


@pytest.fixture
def driver(agent, tmp_path):
    made = HaproxyDriver(controller_settings(agent, tmp_path))
    yield made
    made.close()


def delivery(lb, **options):
    return Delivery(load_balancer=lb, amphora=AMPHORA, **options)


def simple(**options):
    p = pool()
    return load_balancer(listener(p, **options), p, id=ID)


def tls(*refs, **options):
    default, *sni = refs
    one = listener(protocol=TLS, id="lis-tls", tls_certificate_id=default, sni_container_ids=tuple(sni), **options)
    return load_balancer(one, id=ID)


def names(agent):
    return {name for _, name in agent.files} - {APPLIED}


def test_the_first_push_uploads_reloads_reads_back_and_marks(agent, driver):
    pushed = driver.push(agent.at, delivery(simple()))
    assert agent.requests() == [READ, INFO, LISTED, DETAILS, UPLOAD, RELOAD, READ, MARK]
    assert pushed.changed
    assert pushed.skipped_listeners == ()
    assert pushed.etag == md5(agent.loaded[ID].encode())
    assert agent.files[ID, APPLIED] == pushed.etag.encode()


def test_the_same_again_sends_nothing(agent, driver):
    lb = simple()
    first = driver.push(agent.at, delivery(lb))
    agent.requests()
    again = driver.push(agent.at, delivery(lb))
    assert agent.requests() == [READ, INFO, LISTED, MARKED]
    assert again == attrs.evolve(first, changed=False)


def test_a_change_is_uploaded_and_reloaded_without_asking_for_details_again(agent, driver):
    lb = simple()
    driver.push(agent.at, delivery(lb))
    agent.requests()
    changed = attrs.evolve(lb, listeners=(attrs.evolve(lb.listeners[0], connection_limit=9),))
    assert driver.push(agent.at, delivery(changed)).changed
    assert agent.requests() == [READ, INFO, LISTED, MARKED, UNMARK, UPLOAD, RELOAD, READ, MARK]
    assert "maxconn 9\n" in agent.loaded[ID]


STEPS = [READ, INFO, DETAILS, MARKED, UNMARK, UPLOAD, RELOAD, MARK]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", [False, True], ids=["before-its-effect", "after-its-effect"])
def test_a_push_that_is_cut_off_anywhere_is_completed_by_the_next(step, after, agent, driver):
    """Whatever the agent lost or did, afterwards the wanted configuration is the loaded one, also after a rollback."""
    old, new = simple(), simple(connection_limit=9)
    driver.push(agent.at, delivery(old))
    done = agent.do

    def fail(asked):
        if str(asked) == step:
            if after:
                done(asked)
            agent.do = done
            return Reply(500, {"message": "cut off"})
        return done(asked)

    agent.do = fail
    try:
        driver.push(agent.at, delivery(new))
    except AmphoraRefused:
        agent.do = done
        driver.push(agent.at, delivery(old))
        assert "maxconn 9\n" not in agent.loaded[ID]
        driver.push(agent.at, delivery(new))
    assert "maxconn 9\n" in agent.loaded[ID]
    assert agent.loaded[ID] == agent.configurations[ID]
    agent.requests()
    assert not driver.push(agent.at, delivery(new)).changed


def test_a_refused_configuration_leaves_the_loaded_one_and_says_why(agent, driver):
    driver.push(agent.at, delivery(simple()))
    loaded = agent.loaded[ID]
    agent.answers[UPLOAD] = Reply(400, {"message": "Invalid request", "details": "[ALERT] no such thing"})
    with pytest.raises(AmphoraRefused, match="no such thing"):
        driver.push(agent.at, delivery(simple(connection_limit=9)))
    assert agent.loaded[ID] == loaded


def test_a_configuration_that_somebody_else_overwrote_is_noticed(agent, driver):
    def meddle(asked):
        if str(asked) == RELOAD:
            agent.configurations[ID] = "global\n"

    agent.before_answer = meddle
    with pytest.raises(TransientError, match=f"amphora {AMPHORA_ID} holds another configuration"):
        driver.push(agent.at, delivery(simple()))
    assert (ID, APPLIED) not in agent.files
    agent.before_answer = lambda asked: None
    assert driver.push(agent.at, delivery(simple())).changed


def test_the_fence_goes_with_every_request_and_a_stale_one_is_refused(agent, driver):
    driver.push(agent.at, delivery(simple(), fence=("op-1", 7)))
    assert {asked.headers["X-Octavia-Fence"] for asked in agent.asked} == {"op-1:7"}
    agent.answers[READ] = Reply(409, {"message": "Stale fence", "details": "newer holder"})
    with pytest.raises(AmphoraRefused, match="newer holder") as caught:
        driver.push(agent.at, delivery(simple(), fence=("op-1", 6)))
    assert caught.value.status == 409
    driver.remove(agent.at, ID)
    assert "X-Octavia-Fence" not in agent.asked[-1].headers


def test_certificates_are_sent_before_the_configuration_and_only_once(agent, driver, authority, client_authority):
    material = Material(
        bundles={name: authority.issue(f"{name}.test") for name in "ab"}, payloads={"ca": client_authority.pem}
    )
    lb = tls("a", "b", client_ca_tls_certificate_id="ca", client_authentication=ClientAuthentication.MANDATORY)
    driver.push(agent.at, delivery(lb, material=material))
    asked = agent.requests()
    assert len(names(agent)) == 4
    assert agent.files[ID, "lis-tls.pem"].decode().count(f"/var/lib/octavia/certs/{ID}/") == 2
    assert max(asked.index(certificate("PUT", name)) for name in names(agent)) < asked.index(UPLOAD)
    driver.push(agent.at, delivery(lb, material=material))
    assert agent.requests() == [READ, INFO, LISTED, MARKED]
    changed = attrs.evolve(lb, listeners=(attrs.evolve(lb.listeners[0], connection_limit=9),))
    driver.push(agent.at, delivery(changed, material=material))
    assert not [one for one in agent.requests() if "certificates" in one and APPLIED not in one]


def test_a_renewed_certificate_is_sent_loaded_and_the_old_one_deleted(agent, driver, authority):
    old, new = authority.issue("www.test"), authority.issue("www.test")
    driver.push(agent.at, delivery(tls("a"), material=Material(bundles={"a": old})))
    before = names(agent)
    agent.requests()
    driver.push(agent.at, delivery(tls("a"), material=Material(bundles={"a": new})))
    asked = agent.requests()
    gone, came = before - names(agent), names(agent) - before
    assert len(gone) == len(came) == 1
    assert asked.index(RELOAD) < asked.index(certificate("DELETE", gone.pop()))
    assert asked[-1] == MARK


def test_new_intermediates_under_the_same_leaf_are_loaded_too(agent, driver, authority):
    bundle = authority.issue("www.test")
    driver.push(agent.at, delivery(tls("a"), material=Material(bundles={"a": bundle})))
    agent.requests()
    longer = attrs.evolve(bundle, intermediates=(authority.pem.strip(),))
    assert driver.push(agent.at, delivery(tls("a"), material=Material(bundles={"a": longer}))).changed
    assert RELOAD in agent.requests()


def test_certificates_that_vanished_at_a_reboot_are_sent_again(agent, driver, authority):
    material = Material(bundles={"a": authority.issue("www.test")})
    driver.push(agent.at, delivery(tls("a"), material=material))
    before = dict(agent.files)
    agent.files.clear()
    assert driver.push(agent.at, delivery(tls("a"), material=material)).changed
    assert agent.files == before


def test_files_with_the_right_content_are_not_sent_again_even_if_nothing_is_known_of_them(agent, driver, authority):
    material = Material(bundles={"a": authority.issue("www.test")})
    driver.push(agent.at, delivery(tls("a"), material=material))
    del agent.files[ID, APPLIED]
    agent.requests()
    driver.push(agent.at, delivery(tls("a"), material=material))
    assert [one for one in agent.requests() if one.startswith("PUT")] == [RELOAD, MARK]


def test_a_listener_whose_secret_is_gone_goes_on_with_what_it_has(agent, driver, authority, client_authority):
    material = Material(
        bundles={"a": authority.issue("www.test"), "own": authority.issue("own.test")},
        payloads={"ca": client_authority.pem, "member-ca": authority.pem},
    )
    p = pool(tls_enabled=True, tls_certificate_id="own", ca_tls_certificate_id="member-ca", id="pool-tls")
    one = listener(
        p, TLS, id="lis-tls", tls_certificate_id="a", client_ca_tls_certificate_id="ca",
        client_authentication=ClientAuthentication.OPTIONAL,
    )  # fmt: skip
    lb = load_balancer(one, attrs.evolve(p, members=_members()), id=ID)
    driver.push(agent.at, delivery(lb, material=material))
    text, files = agent.loaded[ID], dict(agent.files)
    for missing in ("a", "own", "member-ca", "ca"):
        left = Material(
            bundles={ref: value for ref, value in material.bundles.items() if ref != missing},
            payloads={ref: value for ref, value in material.payloads.items() if ref != missing},
            missing={missing: "no such secret"},
        )
        pushed = driver.push(agent.at, delivery(lb, material=left))
        assert pushed.skipped_listeners == ("lis-tls",)
        assert not pushed.changed
        assert (agent.loaded[ID], agent.files) == (text, files)
    changed = attrs.evolve(lb, listeners=(attrs.evolve(one, connection_limit=9),))
    assert driver.push(agent.at, delivery(changed, material=Material())).changed
    assert "maxconn 9\n" in agent.loaded[ID]
    assert names(agent) == {name for _, name in files} - {APPLIED}
    assert "verify optional" in agent.loaded[ID]
    assert "verify required sni ssl_fc_sni" in agent.loaded[ID]


def test_a_listener_whose_secret_is_gone_is_left_out_where_its_files_are_gone_too(agent, driver, authority):
    lb = tls("a")
    plain = listener(id="lis-plain", protocol_port=81)
    both = attrs.evolve(lb, listeners=(*lb.listeners, plain))
    driver.push(agent.at, delivery(both, material=Material(bundles={"a": authority.issue("www.test")})))
    agent.files = {key: value for key, value in agent.files.items() if key[1] in (APPLIED, "lis-tls.pem")}
    pushed = driver.push(agent.at, delivery(both))
    assert pushed.skipped_listeners == ("lis-tls",)
    assert "lis-tls" not in agent.loaded[ID]
    assert "frontend lis-plain\n" in agent.loaded[ID]


def test_a_listener_that_becomes_encrypted_without_its_secret_is_never_served_in_plain(agent, driver):
    p = pool(_members(), id="pool-1")
    one = listener(p, id="lis-1")
    driver.push(agent.at, delivery(load_balancer(one, p, id=ID)))
    for lb in (
        load_balancer(attrs.evolve(one, protocol=TLS, tls_certificate_id="a"), p, id=ID),
        load_balancer(one, attrs.evolve(p, tls_enabled=True, ca_tls_certificate_id="ca"), id=ID),
    ):
        assert driver.push(agent.at, delivery(lb)).skipped_listeners == ("lis-1",)
        assert "lis-1" not in agent.loaded[ID]


def test_the_last_listener_takes_the_load_balancer_with_it(agent, driver):
    lb = simple()
    driver.push(agent.at, delivery(lb))
    agent.requests()
    empty = attrs.evolve(lb, listeners=())
    assert driver.push(agent.at, delivery(empty)).changed
    assert agent.requests() == [READ, f"DELETE /1.0/listeners/{ID}", LISTED]
    assert (agent.configurations, agent.files) == ({}, {})
    assert not driver.push(agent.at, delivery(empty)).changed


def test_details_shape_threads_and_the_tls_session_cache_and_free_memory_does_not_change_it_again(
    agent, driver, authority
):
    memory = {"free": 900_000, "buffers": 50_000, "cached": 50_000}
    agent.details = {"cpu_count": 4, "active_tuned_profiles": "virtual-guest amphora", "memory": memory}
    lb = tls("a", connection_limit=1000)
    material = Material(bundles={"a": authority.issue("www.test")})
    driver.push(agent.at, delivery(lb, material=material))
    for line in ("nbthread 3", "cpu-map auto:1/1-3 1-3", "tune.ssl.cachesize 1548800"):
        assert f"    {line}\n" in agent.loaded[ID]
    agent.details["memory"] = {"free": 5, "buffers": 0, "cached": 0}
    agent.requests()
    assert not driver.push(agent.at, delivery(lb, material=material)).changed
    assert DETAILS not in agent.requests()
    bigger = attrs.evolve(lb, listeners=(attrs.evolve(lb.listeners[0], connection_limit=2000),))
    driver.push(agent.at, delivery(bigger, material=material))
    assert DETAILS in agent.requests()
    assert "cachesize" not in agent.loaded[ID]


def test_the_tls_cache_of_a_large_amphora_has_a_limit(agent, driver, authority):
    agent.details = {"cpu_count": 1, "memory": {"free": 64_000_000, "buffers": 0, "cached": 0}}
    material = Material(bundles={"a": authority.issue("www.test")})
    driver.push(agent.at, delivery(tls("a", connection_limit=1000), material=material))
    assert "tune.ssl.cachesize 2000000" in agent.loaded[ID]


def test_an_agent_without_details_yet_is_served_all_the_same(agent, driver):
    agent.answers[DETAILS] = Reply(500, {"message": "no namespace"})
    assert driver.push(agent.at, delivery(simple())).changed
    agent.answers[DETAILS] = Reply(503, {"message": "away"})
    agent.configurations.clear()
    with pytest.raises(AmphoraRefused, match="away"):
        driver.push(agent.at, delivery(simple()))


@pytest.mark.parametrize(
    ("version", "there", "not_there"),
    [
        ("1.5.19", ["frontend"], ["http-reuse", "server-state-file", "load-server-state"]),
        ("1.8.30-1ubuntu1", ["http-reuse safe"], ["prometheus", "check-alpn"]),
        ("2.6.12-1+deb12u4", ["prometheus-exporter", "check-alpn h2", "insecure-fork-wanted"], []),
        ("", ["prometheus-exporter"], []),
    ],
)
def test_the_version_of_haproxy_there_decides_which_directives_are_used(version, there, not_there, agent, driver):
    from octavia_core.domain.tree import HealthMonitor
    from octavia_core.domain.vocabulary import MonitorType

    agent.haproxy_version = version
    ping = HealthMonitor(id="hm", type=MonitorType.PING)
    p = pool(_members(), health_monitor=ping, tls_enabled=True, alpn_protocols=("h2",))
    metrics = listener(protocol=ListenerProtocol.PROMETHEUS, protocol_port=9090)
    driver.push(agent.at, delivery(load_balancer([listener(p), metrics], p, id=ID)))
    assert all(word in agent.loaded[ID] for word in there)
    assert not any(word in agent.loaded[ID] for word in not_there)


def test_a_pair_shares_its_stick_tables(agent, driver):
    from octavia_core.domain.tree import SessionPersistence
    from octavia_core.domain.vocabulary import PersistenceType

    p = pool(session_persistence=SessionPersistence(type=PersistenceType.SOURCE_IP))
    lb = load_balancer(listener(p), p, id=ID, topology=Topology.ACTIVE_STANDBY)
    own = attrs.evolve(AMPHORA, vrrp_ip="10.0.0.5")
    allocated, booting = (
        Amphora(id=id, status=status, vrrp_ip=ip)
        for id, status, ip in (
            ("amp-2", AmphoraStatus.ALLOCATED, "2001:db8::6"),
            ("amp-3", AmphoraStatus.BOOTING, "10.0.0.7"),
        )
    )
    driver.push(agent.at, Delivery(load_balancer=lb, amphora=own, peers=(allocated, booting)))
    name = ID.replace("-", "") + "_peers"
    assert (
        f"peers {name}\n    peer {peer_name(AMPHORA_ID)} 10.0.0.5:1025\n    peer {peer_name('amp-2')} 2001:db8::6:1025\n\n"
        in agent.loaded[ID]
    )
    assert f"stick-table type ipv6 size 10k peers {name}\n" in agent.loaded[ID]


@pytest.mark.parametrize(
    ("amphora", "name"),
    [
        ("5d1b2f3c-0b0e-4b5f-9a55-6c8f8f0a1e11", "VWMChqbpn9hMcZGlZCH1GDyXYYk"),
        ("00000000-0000-0000-0000-000000000064", "xC19DVJPYsH2CtfDhTe91ykairA"),
        ("amp-aaaa", "uSqW-gcJo-jmJJ-WbZPUehEr-6Q"),
    ],
)
def test_peer_names_are_those_of_the_agent(amphora, name):
    assert peer_name(amphora) == name


def test_a_whole_push_ends_within_the_time_limit_of_one_call(agent, tmp_path):
    """Answers that are each in time, but too many, end the push too: nobody waits longer than `time_limit`."""
    import threading

    driver = HaproxyDriver(
        controller_settings(agent, tmp_path, rest_request_conn_timeout=0.3, rest_request_read_timeout=0.3)
    )
    agent.before_answer = lambda asked: threading.Event().wait(0.25)
    with pytest.raises(AmphoraUnreachable, match="took too long"):
        driver.push(agent.at, delivery(simple()))
    driver.close()


def test_configurations_of_upstream_are_read_as_well(agent, driver, authority):
    """An amphora that upstream configured: nothing says which files it has, but what is named is kept or removed."""
    directory = f"/var/lib/octavia/certs/{ID}"
    agent.configurations[ID] = (
        f"# Configuration for loadbalancer {ID}\nglobal\n    maxconn 2000\n    nbthread 3\n\ndefaults\n    log global\n\n"
        f"frontend lis-tls\n    maxconn 2000\n    bind 10.0.0.1:443 ssl crt-list {directory}/lis-tls.pem ca-file "
        f"{directory}/0123.pem verify required\n    mode http\n    log-format a\\ b\n"
    )
    held = read_back(agent.configurations[ID], directory)
    assert set(held.named) == {"lis-tls.pem", "0123.pem"}
    assert (held.maxconn, held.threads) == (2000, 3)
    agent.files = {(ID, "lis-tls.pem"): b"x", (ID, "0123.pem"): b"y"}
    pushed = driver.push(agent.at, delivery(tls("a")))
    assert pushed.skipped_listeners == ("lis-tls",)
    assert f"ssl crt-list {directory}/lis-tls.pem ca-file {directory}/0123.pem verify required\n" in agent.loaded[ID]
    driver.push(agent.at, delivery(tls("a"), material=Material(bundles={"a": authority.issue("www.test")})))
    assert (ID, "0123.pem") not in agent.files


def test_render_shows_text_and_lists_but_no_secrets(driver, authority):
    material = Material(bundles={"a": authority.issue("www.test")}, payloads={"ca": authority.pem})
    shown = dict(driver.render(delivery(tls("a", client_ca_tls_certificate_id="ca"), material=material)))
    assert set(shown) > {"haproxy.cfg", "lis-tls.pem"}
    assert len(shown) == 3
    assert not any("PRIVATE" in text for text in shown.values())
    assert driver.render(delivery(load_balancer([], id=ID))) == []


def test_remove_is_idempotent(agent, driver):
    driver.push(agent.at, delivery(simple()))
    agent.requests()
    driver.remove(agent.at, ID)
    driver.remove(agent.at, ID)
    assert agent.requests() == [LISTED, f"DELETE /1.0/listeners/{ID}"] * 2


def _members():
    from octavia_core.domain.tree import Member

    return (Member(id="m", address="10.0.0.9", protocol_port=80),)


def crt_list(agent):
    """The names in the list of certificates of the one TLS listener."""
    return agent.files[ID, "lis-tls.pem"].decode().split()


def test_a_new_amphora_is_served_without_the_sni_certificate_that_is_gone_but_never_without_the_default(
    agent, driver, authority, client_authority
):
    certificates = {ref: authority.issue(f"{ref}.test") for ref in ("a", "b", "c")}
    lb = tls("a", "b", "c")
    left = Material(bundles={ref: certificates[ref] for ref in ("a", "c")}, missing={"b": "no such secret"})
    pushed = driver.push(agent.at, delivery(lb, material=left))
    assert (pushed.skipped_listeners, pushed.partial_listeners) == (("lis-tls",), ("lis-tls",))
    assert pushed.kept_listeners == ()
    assert len(crt_list(agent)) == 2
    # what it holds is no more than that, so a renewed certificate is served all the same
    again = Material(bundles={"a": authority.issue("a.test"), "c": certificates["c"]}, missing=left.missing)
    before = crt_list(agent)
    assert driver.push(agent.at, delivery(lb, material=again)).partial_listeners == ("lis-tls",)
    assert crt_list(agent)[0] != before[0]
    # back: whole again; gone again: the amphora holds more than could be had, and goes on with it
    whole = driver.push(agent.at, delivery(lb, material=Material(bundles=certificates)))
    assert whole.skipped_listeners == ()
    assert len(crt_list(agent)) == 3
    assert driver.push(agent.at, delivery(lb, material=left)).kept_listeners == ("lis-tls",)
    assert len(crt_list(agent)) == 3
    # neither the default certificate nor what checks clients is ever left out
    agent.files.clear()
    default_gone = Material(bundles={ref: certificates[ref] for ref in ("b", "c")})
    assert driver.push(agent.at, delivery(lb, material=default_gone)).partial_listeners == ()
    assert "lis-tls" not in agent.loaded[ID]
    checked = tls("a", client_ca_tls_certificate_id="ca", client_authentication=ClientAuthentication.MANDATORY)
    unchecked = driver.push(agent.at, delivery(checked, material=Material(bundles=certificates)))
    assert (unchecked.skipped_listeners, unchecked.partial_listeners) == (("lis-tls",), ())
    assert "lis-tls" not in agent.loaded[ID]


def test_what_is_of_the_wrong_kind_is_not_sent(agent, driver, authority, client_authority):
    material = Material(bundles={"a": authority.issue("www.test")}, payloads={"ca": client_authority.pem})
    lb = tls(
        "a", client_ca_tls_certificate_id="ca", client_crl_container_id="ca",
        client_authentication=ClientAuthentication.MANDATORY,
    )  # fmt: skip
    assert driver.push(agent.at, delivery(lb, material=material)).skipped_listeners == ("lis-tls",)
    assert "lis-tls" not in agent.loaded[ID]


# -- more members than an agent can report -----------------------------------------------------------------------------
def crowded(members, **options):
    dice = random.Random(7)  # noqa: S311 - no secret
    ids = [str(uuid.UUID(int=dice.getrandbits(128))) for _ in range(members)]
    p = pool(Member(id=id, address=f"198.18.{n // 250}.{n % 250 + 1}", protocol_port=80) for n, id in enumerate(ids))
    return load_balancer(listener(p), p, id=ID, **options)


def test_a_change_that_makes_it_too_large_to_be_reported_is_refused_before_anything_is_sent(agent, driver):
    driver.push(agent.at, delivery(crowded(2000, provisioning_status=Provisioning.PENDING_CREATE)))
    had, agent.asked[:] = agent.loaded[ID], []
    with pytest.raises(PermanentError) as refused:
        driver.push(agent.at, delivery(crowded(4000)))
    assert "4000 members" in str(refused.value)
    assert "65507 bytes" in str(refused.value)
    assert agent.loaded[ID] == had
    assert all(str(asked).startswith("GET") for asked in agent.asked)


def test_a_new_load_balancer_that_is_too_large_to_be_reported_is_refused(agent, driver):
    with pytest.raises(PermanentError, match="4000 members"):
        driver.push(agent.at, delivery(crowded(4000, provisioning_status=Provisioning.PENDING_CREATE)))
    assert agent.configurations == {}


def test_one_that_is_too_large_already_goes_on_when_it_moves_or_shrinks(agent, driver):
    assert driver.push(agent.at, delivery(crowded(4000))).changed
    assert driver.push(agent.at, delivery(crowded(3900))).changed


def test_an_agent_of_ours_is_given_any_number_of_members(agent, driver):
    agent.answers[INFO] = Reply(200, agent.do(Asked("GET", "/1.0/info", {}, b"")).content | {"offers": ["apply"]})
    agent.asked.clear()
    assert driver.push(agent.at, delivery(crowded(4000, provisioning_status=Provisioning.PENDING_CREATE))).changed
