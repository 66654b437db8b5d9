"""TLS from files of the state directory: by name, with client certificates, re-encrypted, and what clients are told."""

from __future__ import annotations

import socket
import ssl

import attrs
import pytest

from octavia_core import NewL7Policy, NewL7Rule, NewListener, NewLoadBalancer, NewPool
from octavia_core.domain.vocabulary import (
    ClientAuthentication,
    CompareType,
    Kind,
    L7Action,
    L7RuleType,
    ListenerProtocol,
    PoolProtocol,
    Provisioning,
)
from octavia_core.errors import OperationFailed
from tests.haproxy.certificates import Authority
from tests.main_job.stage import PATIENCE, behind, http
from tests.support.running import Echo

TLS = ListenerProtocol.TERMINATED_HTTPS


def tls(*members, port=8443, certificate="www", **options):
    pool = NewPool(members=members)
    return NewListener(protocol=TLS, protocol_port=port, tls_certificate_id=certificate, default_pool=pool, **options)


def certificate_of(stage, lb, context, name, listener=0):
    """The host name in the certificate that a client sees who asks for that one."""
    plain = socket.create_connection(stage.at(lb, listener), timeout=PATIENCE)
    with plain, context.wrap_socket(plain, server_hostname=name) as secured:
        return next(value for kind, value in secured.getpeercert()["subjectAltName"] if kind == "DNS")


@pytest.fixture
def secrets(stage, authority):
    """Two certificates in the state directory."""
    stage.put_secret("www", authority.issue("www.test"))
    stage.put_secret("api", authority.issue("api.test"))


def test_each_name_gets_its_certificate_and_a_changed_list_works(stage, authority, secrets):
    client = authority.client_context()
    with Echo("one") as one:
        lb = stage.build(tls(*behind(one), sni_container_ids=["api"]))
        assert certificate_of(stage, lb, client, "www.test") == "www.test"
        assert certificate_of(stage, lb, client, "api.test") == "api.test"
        assert stage.ask(lb, tls=client, name="api.test").member == "one"
        stage.put_secret("new", authority.issue("new.test"))
        stage.update(Kind.LISTENER, lb.listeners[0].id, sni_container_ids=["new"])
        assert certificate_of(stage, lb, client, "new.test") == "new.test"
        with pytest.raises(ssl.SSLCertVerificationError):  # the default certificate is shown
            certificate_of(stage, lb, client, "api.test")
        stage.update(Kind.LISTENER, lb.listeners[0].id, tls_certificate_id="api", sni_container_ids=[])
        assert certificate_of(stage, lb, client, "api.test") == "api.test"


def test_old_versions_and_alpn_are_as_asked(stage, authority, secrets):
    with Echo("one") as one:
        lb = stage.build(tls(*behind(one), tls_versions=["TLSv1.3"], alpn_protocols=["h2", "http/1.1"]))
        client = authority.client_context()
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            certificate_of(stage, lb, client, "www.test")
        client = authority.client_context()
        client.set_alpn_protocols(["h2"])
        plain = socket.create_connection(stage.at(lb), timeout=PATIENCE)
        with plain, client.wrap_socket(plain, server_hostname="www.test") as secured:
            assert (secured.version(), secured.selected_alpn_protocol()) == ("TLSv1.3", "h2")


def test_clients_show_certificates_where_they_must_and_may(stage, authority, secrets):
    clients, strangers = Authority(), Authority()
    known, revoked = clients.issue("client", common_name="someone"), clients.issue("gone", common_name="gone")
    foreign = strangers.issue("client", common_name="someone")
    stage.put_payload("clients", clients.pem)
    stage.put_payload("revoked", clients.revocation_list(revoked))
    headers = {"X-SSL-Client-Verify": "true", "X-SSL-Client-Has-Cert": "true", "X-SSL-Client-CN": "true"}
    asks = {"client_ca_tls_certificate_id": "clients", "client_crl_container_id": "revoked", "insert_headers": headers}
    with Echo("one") as one:
        lb = stage.build(
            tls(*behind(one), client_authentication=ClientAuthentication.MANDATORY, **asks),
            tls(*behind(one), port=8444, client_authentication=ClientAuthentication.OPTIONAL, **asks),
        )

        def ask(listener, bundle=None):
            return stage.ask(lb, listener=listener, tls=authority.client_context(bundle), name="www.test")

        for listener in (0, 1):
            seen = ask(listener, known).echo["headers"]
            assert (seen["x-ssl-client-cn"], seen["x-ssl-client-verify"]) == ("someone", "0")
            for bad in (foreign, revoked):
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    ask(listener, bad)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ask(0)
        assert ask(1).echo["headers"]["x-ssl-client-has-cert"] == "0"
        mandatory = next(one for one in lb.listeners if one.protocol_port == 8443)
        stage.update(Kind.LISTENER, mandatory.id, client_authentication="none", insert_headers={})
        assert ask(0).member == "one"


def test_strict_transport_inserted_headers_and_a_redirect_to_tls(stage, authority, secrets):
    to_tls = NewL7Policy(
        action=L7Action.REDIRECT_PREFIX,
        redirect_prefix="https://www.test",
        redirect_http_code=301,
        rules=[NewL7Rule(type=L7RuleType.PATH, compare_type=CompareType.STARTS_WITH, value="/")],
    )
    headers = {"X-Forwarded-For": "true", "X-Forwarded-Port": "true", "X-Forwarded-Proto": "true"}
    with Echo("one") as one:
        lb = stage.build(
            http(port=8080, l7policies=[to_tls]),
            tls(
                *behind(one),
                insert_headers=headers,
                hsts_max_age=31536000,
                hsts_include_subdomains=True,
                hsts_preload=True,
            ),
        )
        answer = stage.ask(lb, "/x?y=1")
        assert (answer.status, answer.headers["location"]) == (301, "https://www.test/x?y=1")
        answer = stage.ask(lb, listener=1, tls=authority.client_context(), name="www.test", source="127.9.4.3")
        strict = answer.headers["strict-transport-security"].replace(" ", "")
        assert strict.rstrip(";") == "max-age=31536000;includeSubDomains;preload"
        seen = answer.echo["headers"]
        assert seen["x-forwarded-for"] == "127.9.4.3"
        assert (seen["x-forwarded-port"], seen["x-forwarded-proto"]) == ("8443", "https")


def test_https_passes_through_untouched(stage, authority):
    bundle = authority.issue("member.test")
    with Echo("one", tls=authority.server_context(bundle)) as one:
        pool = NewPool(members=behind(one))
        lb = stage.build(NewListener(protocol=ListenerProtocol.HTTPS, protocol_port=8443, default_pool=pool))
        assert lb.pools[0].protocol is PoolProtocol.HTTPS
        assert certificate_of(stage, lb, authority.client_context(), "member.test") == "member.test"
        assert stage.ask(lb, tls=authority.client_context(), name="member.test").member == "one"


def test_members_are_spoken_to_in_tls_with_a_certificate_of_ours(stage, authority):
    ours, theirs = Authority(), Authority()
    stage.put_secret("to-members", ours.issue("balancer", common_name="balancer"))
    stage.put_payload("members", theirs.pem)
    secured = theirs.server_context(theirs.issue("127.0.0.1", "one.test"), clients=ours)
    stranger = authority.server_context(authority.issue("127.0.0.1"))
    options = {"tls_enabled": True, "tls_certificate_id": "to-members", "ca_tls_certificate_id": "members"}
    with Echo("one", tls=secured) as one, Echo("two", tls=stranger) as two:
        lb = stage.build(http(*behind(one), pool=options), http(*behind(two), port=8081, pool=options))
        peer = stage.ask(lb).echo["client_certificate"]
        assert [["commonName", "balancer"]] in peer["subject"]
        assert stage.ask(lb, listener=1).status == 503  # signed by nobody whom we were told to trust


def spoilt_certificates(authority):
    """(reference, PEM text or None, what is said about it, a certificate that mends it)"""
    good, other = authority.issue("mended.test"), authority.issue("other.test")
    key, foreign = (bundle.private_key.reveal().decode() for bundle in (good, other))
    encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----"
    yield "absent", None, "no secret 'absent'", good
    yield "no-key", good.certificate, "a certificate and no private key", good
    yield "no-certificate", key, "a private key and no certificate", good
    yield "foreign-key", f"{good.certificate}\n{foreign}", "the private key does not belong to the certificate", good
    yield "damaged", f"{good.certificate[:200]}\n{good.certificate[300:]}\n{key}", "damaged", good
    yield "encrypted", f"{good.certificate}\n{encrypted}", "encrypted", good
    yield "other-things", "What is this?", "secret 'other-things'", good


def test_a_certificate_that_cannot_be_used_fails_in_a_sentence_and_disturbs_nobody(stage, authority, secrets):
    """A new listener ends in ERROR, a changed one goes on as before; mended or deleted, all is well again."""
    client = authority.client_context()
    with Echo("one") as one:
        lb = stage.build(tls(*behind(one), name="good"))
        listener = lb.listeners[0]
        for ref, content, said, mended in spoilt_certificates(authority):
            if content is not None:
                stage.put_payload(f"{ref}.pem", f"{content}\n")
            made = stage.controller.create_listener(lb.id, tls(port=8444, certificate=ref))
            changed = stage.controller.update(Kind.LISTENER, listener.id, tls_certificate_id=ref, wait=PATIENCE)
            for operation in (made, changed):
                with pytest.raises(OperationFailed, match=said) as caught:
                    operation.wait(PATIENCE)
                assert "\n" not in str(caught.value)
                assert "Traceback" not in str(caught.value)
                assert "PRIVATE KEY--" not in str(caught.value)
                assert stage.find(lb.id, operation.subject_id).provisioning_status is Provisioning.ERROR
            assert stage.tree(lb.id).provisioning_status is Provisioning.ACTIVE
            assert "the last good configuration serves on" in stage.controller.why(listener.id).next
            assert "it never worked" in stage.controller.why(made.subject_id).next
            assert certificate_of(stage, lb, client, "www.test") == "www.test"
            stage.put_secret(ref, mended)
            stage.update(Kind.LISTENER, listener.id, tls_certificate_id=ref)
            assert certificate_of(stage, lb, client, "mended.test") == "mended.test"
            stage.delete(Kind.LISTENER, made.subject_id)
            for pool in stage.tree(lb.id).pools:
                if pool.provisioning_status is Provisioning.ERROR:  # it was wished for with its listener
                    stage.delete(Kind.POOL, pool.id)
            stage.update(Kind.LISTENER, listener.id, tls_certificate_id="www")
            assert stage.statuses(lb.id) == {Provisioning.ACTIVE}


def test_a_load_balancer_whose_certificate_is_missing_is_undone_and_says_why(stage):
    control = stage.controller
    operation = control.create_load_balancer(NewLoadBalancer(listeners=[http(), tls(certificate="nowhere")]))
    with pytest.raises(OperationFailed, match="no secret 'nowhere'"):
        operation.wait(PATIENCE)
    assert stage.tree(operation.load_balancer_id).provisioning_status is Provisioning.ERROR
    assert list(control.amphorae(operation.load_balancer_id)) == []
    assert "no secret 'nowhere'" in str(control.why(operation.load_balancer_id))


def test_a_secret_that_is_replaced_under_its_name_is_served_by_the_next_wish_about_its_listener(
    stage, authority, secrets
):
    """However young the copy in memory is; a wish about something else takes the copy."""
    client = authority.client_context()
    with Echo("one") as one:
        lb = stage.build(tls(*behind(one)))
        assert certificate_of(stage, lb, client, "www.test") == "www.test"
        stage.put_secret("www", authority.issue("renewed.test"))
        stage.update(Kind.LISTENER, lb.listeners[0].id, tls_certificate_id="www")
        assert certificate_of(stage, lb, client, "renewed.test") == "renewed.test"


def test_an_sni_certificate_that_is_gone_leaves_the_others_served_and_why_says_how_it_comes_back(
    stage, authority, secrets
):
    client, control = authority.client_context(), stage.controller
    with Echo("one") as one, Echo("two") as two:
        lb = stage.build(tls(*behind(one), sni_container_ids=["api"], name="secured"))
        listener = lb.listeners[0]
        (stage.state / "secrets" / "api.pem").unlink()
        with pytest.raises(OperationFailed, match="no secret 'api'"):  # nobody is told that it is served
            control.update(Kind.LISTENER, listener.id, sni_container_ids=["api"], wait=PATIENCE).wait(PATIENCE)
        stage.put_secret("api", authority.issue("api.test"))
        stage.update(Kind.LISTENER, listener.id, sni_container_ids=["api"])
        (stage.state / "secrets" / "api.pem").unlink()
        with pytest.raises(OperationFailed, match="no secret 'api'"):
            control.update(Kind.LISTENER, listener.id, name="secured", wait=PATIENCE).wait(PATIENCE)
        # the new amphora has no files to go on with
        control.failover_load_balancer(lb.id, wait=PATIENCE).wait(PATIENCE)
        assert certificate_of(stage, lb, client, "www.test") == "www.test"
        with pytest.raises(ssl.SSLCertVerificationError):  # the default certificate is shown
            certificate_of(stage, lb, client, "api.test")
        said = str(control.why(lb.id))
        assert "is served without some of its certificates: no secret 'api'" in said
        assert f"octavia-admin listener set {listener.id} --cert www" in said
        stage.put_secret("api", authority.issue("api.test"))
        stage.update(Kind.LISTENER, listener.id, tls_certificate_id="www")
        assert certificate_of(stage, lb, client, "api.test") == "api.test"
        assert "no secret" not in str(control.why(lb.id))
        # with its default certificate it would have been left out; any wish that serves it again makes it well
        (stage.state / "secrets" / "www.pem").unlink()
        with pytest.raises(OperationFailed, match="no secret 'www'"):
            control.update(Kind.LISTENER, listener.id, name="secured", wait=PATIENCE).wait(PATIENCE)
        control.failover_load_balancer(lb.id, wait=PATIENCE).wait(PATIENCE)
        with pytest.raises(ConnectionRefusedError):
            certificate_of(stage, lb, client, "www.test")
        said = str(control.why(listener.id))
        assert "no secret 'www'" in said
        assert "serves on" not in said
        assert f"octavia-admin listener set {listener.id} --cert www" in said
        stage.put_secret("www", authority.issue("www.test"))
        control.create_member(stage.tree(lb.id).pools[0].id, *behind(two), wait=PATIENCE).wait(PATIENCE)
        assert certificate_of(stage, lb, client, "www.test") == "www.test"
        assert stage.statuses(lb.id) == {Provisioning.ACTIVE}
        assert "no secret" not in str(control.why(listener.id))


def test_secrets_of_the_wrong_kind_are_refused_and_those_out_of_date_are_served_and_said(stage, authority, secrets):
    clients = Authority()
    stage.put_payload("ca", clients.pem)
    stage.put_payload("crl", clients.revocation_list())
    stage.put_payload("leaf", clients.issue("client.test").certificate)
    stage.put_payload("late", clients.revocation_list(days=-1))
    stage.put_secret("old", authority.issue("www.test", days=(-9, -1)))
    stage.put_secret("early", authority.issue("www.test", days=(9, 19)))
    control, shown = stage.controller, authority.client_context(clients.issue("client.test"))
    with Echo("one") as one:
        lb = stage.build(tls(*behind(one), client_authentication=ClientAuthentication.MANDATORY,
                             client_ca_tls_certificate_id="ca"))  # fmt: skip
        id = lb.listeners[0].id
        for values, said in (
            (
                {"client_crl_container_id": "ca"},
                "secret 'ca' holds certificates of authorities; a revocation list is needed",
            ),
            (
                {"client_ca_tls_certificate_id": "crl"},
                "secret 'crl' holds revocation lists; an authority's certificate is",
            ),
            (
                {"client_ca_tls_certificate_id": "leaf"},
                "secret 'leaf' holds certificates, and none of them is one of an auth",
            ),
        ):
            with pytest.raises(OperationFailed, match=said):
                control.update(Kind.LISTENER, id, **values, wait=PATIENCE).wait(PATIENCE)
            assert stage.ask(lb, tls=shown, name="www.test").member == "one"
            control.update(
                Kind.LISTENER, id, client_ca_tls_certificate_id="ca", client_crl_container_id=None, wait=PATIENCE
            ).wait(PATIENCE)
        for values, said in (
            ({"client_crl_container_id": "late"}, "secret 'late': a revocation list in it was to be renewed by"),
            (
                {"client_crl_container_id": "crl", "tls_certificate_id": "old"},
                "the certificate of secret 'old' expired on",
            ),
            ({"tls_certificate_id": "early"}, "the certificate of secret 'early' holds only from"),
        ):
            control.update(Kind.LISTENER, id, **values, wait=PATIENCE).wait(PATIENCE)
            assert said in str(control.why(lb.id))
            assert said in [e for e in control.events(load_balancer_id=lb.id) if e.name == "listener.doubtful"][-1].text
            assert stage.tree(lb.id).provisioning_status is Provisioning.ACTIVE
        control.update(Kind.LISTENER, id, tls_certificate_id="www", wait=PATIENCE).wait(PATIENCE)
        assert "secret" not in str(control.why(lb.id))


def test_a_second_secret_with_the_same_certificate_takes_no_intermediates_from_the_first(stage, authority):
    """An amphora has one file for both; whoever's secret has fewer of them is told."""
    client, control = authority.client_context(), stage.controller
    full = authority.below().issue("www.test")
    assert len(full.intermediates) == 1
    stage.put_secret("full", full)
    stage.put_secret("bare", attrs.evolve(full, intermediates=()))
    with Echo("one") as one:
        lb = stage.build(tls(*behind(one), certificate="full"))
        bare = control.create_listener(lb.id, tls(port=8444, certificate="bare", name="bare"), wait=PATIENCE)
        bare.wait(PATIENCE)
        lb = stage.tree(lb.id)
        for listener in (0, 1):
            assert certificate_of(stage, lb, client, "www.test", listener) == "www.test"
        said = "secret 'bare' holds the same certificate as 'full', with other intermediates"
        assert said in str(control.why(bare.subject_id))
        first = next(one for one in lb.listeners if one.id != bare.subject_id)
        assert said not in str(control.why(first.id))
        assert [event.name for event in control.events(load_balancer_id=lb.id) if said in event.text] == [
            "listener.doubtful"
        ]
        # the listener with all of them goes on with them when its secret is gone
        (stage.state / "secrets" / "full.pem").unlink()
        with pytest.raises(OperationFailed, match="no secret 'full'"):
            control.update(Kind.LISTENER, first.id, tls_certificate_id="full", wait=PATIENCE).wait(PATIENCE)
        stage.update(Kind.LISTENER, bare.subject_id, connection_limit=99)
        for listener in (0, 1):
            assert certificate_of(stage, lb, client, "www.test", listener) == "www.test"
        stage.delete(Kind.LISTENER, first.id)
        with pytest.raises(ssl.SSLCertVerificationError):
            certificate_of(stage, stage.tree(lb.id), client, "www.test")


def test_a_secret_of_an_empty_pool_that_vanishes_takes_no_listener_off_the_air(stage, authority, secrets):
    """Neither where the amphora has its files nor on a new one, which has not; and its key goes with the pool."""
    control = stage.controller
    to_pool = {"action": L7Action.REDIRECT_TO_POOL, "name": "policy"}
    rule = NewL7Rule(type=L7RuleType.PATH, compare_type=CompareType.STARTS_WITH, value="/re")
    with Echo("one") as one, Echo("two", tls=authority.server_context(authority.issue("two.test"))) as two:
        empty = NewPool(name="empty", protocol=PoolProtocol.HTTP, tls_enabled=True, tls_certificate_id="api")
        lb = stage.create(NewLoadBalancer(listeners=[http(*behind(one), name="l")], pools=[empty]))
        pool, listener = stage.find(lb.id, "empty"), lb.listeners[0]
        policy = NewL7Policy(**to_pool, redirect_pool_id=pool.id, rules=[rule])
        control.create_l7policy(listener.id, policy, wait=PATIENCE).wait(PATIENCE)
        assert keys_of(stage, lb) == 1
        (stage.state / "secrets" / "api.pem").unlink()
        with pytest.raises(OperationFailed, match="no secret 'api'"):  # from here on no copy of it is in memory
            control.update(Kind.POOL, pool.id, name="empty", wait=PATIENCE).wait(PATIENCE)
        stage.update(Kind.MEMBER, stage.find(lb.id, "one").id, weight=5)
        assert stage.ask(lb).member == "one"
        assert "goes on with what its amphora holds: no secret 'api'" in str(control.why(listener.id))
        control.create_member(pool.id, *behind(two), wait=PATIENCE).wait(PATIENCE)
        assert stage.ask(lb, "/re").member == "two"
        control.failover_load_balancer(lb.id, wait=PATIENCE).wait(PATIENCE)
        assert stage.ask(lb).member == "one"
        assert stage.ask(lb, "/re").status == 503
        assert "is served without some of its certificates: no secret 'api'" in str(control.why(listener.id))
        stage.delete(Kind.MEMBER, stage.find(lb.id, "two").id)
        stage.put_secret("api", authority.issue("api.test"))
        stage.update(Kind.POOL, pool.id, name="empty")
        assert keys_of(stage, lb) == 1
        stage.delete(Kind.L7POLICY, stage.find(lb.id, "policy").id)
        assert keys_of(stage, lb) == 0
        assert stage.statuses(lb.id) == {Provisioning.ACTIVE}


def keys_of(stage, lb):
    """How many private keys the amphorae of a load balancer hold for it."""
    files = [path for path in (stage.state / "amphorae").rglob("certs/**/*.pem") if lb.id in str(path)]
    return sum("PRIVATE KEY" in path.read_text() for path in files)
