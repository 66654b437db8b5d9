"""TLS of listeners and towards members, shown by handshakes and requests through HAProxy."""

from __future__ import annotations

import contextlib
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor

import attrs
import pytest

from octavia_core.domain.tree import L7Policy, L7Rule
from octavia_core.domain.vocabulary import (
    ClientAuthentication,
    CompareType,
    L7Action,
    L7RuleType,
    ListenerProtocol,
    PoolProtocol,
)
from octavia_core.errors import PermanentError
from octavia_core.ports.amphora import Material
from tests.support.running import PATIENCE, Echo, ask, check, materialise, running
from tests.support.trees import PORT, behind, listener, load_balancer, new_id, pool

pytestmark = pytest.mark.usefixtures("served_by")

TLS = ListenerProtocol.TERMINATED_HTTPS


def tls_listener(default=None, **options):
    return listener(default, TLS, **{"tls_certificate_id": "default", **options})


def shake(served, context, name="www.test"):
    """The server's certificate, protocol version, cipher and ALPN of one handshake."""
    with (
        socket.create_connection((served.address, PORT), timeout=PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname=name) as secured,
    ):
        names = [value for kind, value in secured.getpeercert()["subjectAltName"] if kind == "DNS"]
        return names[0], secured.version(), secured.cipher()[0], secured.selected_alpn_protocol()


@pytest.mark.feature("listener.protocol=TERMINATED_HTTPS", "listener.tls_certificate_id", "listener.sni_container_ids")
def test_the_certificate_is_chosen_by_server_name(authority):
    bundles = {name: authority.issue(f"{name}.test") for name in ("default", "one", "two")}
    bundles["many"] = authority.issue("*.many.test")
    with Echo("m") as member:
        p = pool(behind(member))
        lb = load_balancer(tls_listener(p, sni_container_ids=("one", "two", "many")), p)
        with running(lb, Material(bundles=bundles)) as served:
            context = authority.client_context()
            for name in ("default.test", "one.test", "two.test"):
                assert shake(served, context, name)[0] == name
                assert ask(served.address, PORT, tls=context, name=name).member == "m"
            assert shake(served, context, "x.many.test")[0] == "*.many.test"
            context.check_hostname = False
            assert shake(served, context, "unknown.test")[0] == "default.test"


def test_certificates_may_come_by_sni_alone(authority):
    with Echo("m") as member:
        p = pool(behind(member))
        lb = load_balancer(tls_listener(p, tls_certificate_id=None, sni_container_ids=("one",)), p)
        with running(lb, Material(bundles={"one": authority.issue("www.test")})) as served:
            assert ask(served.address, PORT, tls=authority.client_context(), name="www.test").member == "m"


def test_a_tls_listener_without_any_certificate_is_refused(tmp_path):
    broken = tls_listener(tls_certificate_id=None)
    with pytest.raises(PermanentError, match=f"listener {broken.id}: tls_certificate_id is missing"):
        materialise(load_balancer(broken), tmp_path)


def test_a_listener_whose_certificate_is_missing_is_left_out_and_the_others_stay(tmp_path):
    plain, broken = listener(), tls_listener(protocol_port=443)
    wanted = materialise(load_balancer([plain, broken]), tmp_path, Material(missing={"default": "gone"}))
    assert wanted.missing == (broken.id,)
    assert broken.id not in wanted.text
    assert plain.id in wanted.text


@pytest.mark.feature("listener.tls_versions")
def test_only_the_versions_asked_for_are_spoken(authority):
    material = Material(bundles={"default": authority.issue("www.test")})
    for versions, spoken, refused in (
        (("TLSv1.2",), ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3),
        (("TLSv1.3",), ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2),
    ):
        with running(load_balancer(tls_listener(tls_versions=versions)), material) as served:
            context = authority.client_context()
            context.minimum_version = context.maximum_version = spoken
            assert shake(served, context)[1] == versions[0]
            context = authority.client_context()
            context.minimum_version = context.maximum_version = refused
            with pytest.raises((ssl.SSLError, ConnectionError)):
                shake(served, context)


@pytest.mark.parametrize(
    ("versions", "rendered"),
    [
        (("TLSv1.2", "TLSv1.3"), "no-sslv3 no-tlsv10 no-tlsv11"),
        (("TLSv1.3",), "no-sslv3 no-tlsv10 no-tlsv11 no-tlsv12"),
        (("TLSv1",), "ssl-min-ver TLSv1.0 ssl-max-ver TLSv1.0"),
        (("TLSv1.1", "TLSv1.2"), "ssl-min-ver TLSv1.1 ssl-max-ver TLSv1.2"),
        (("TLSv1", "TLSv1.2"), "no-sslv3 no-tlsv11 no-tlsv13"),
    ],
)
def test_lists_of_versions_are_accepted_by_haproxy(versions, rendered, authority, tmp_path):
    lb = load_balancer(tls_listener(tls_versions=versions))
    material = Material(bundles={"default": authority.issue("www.test")})
    assert f" {rendered}\n" in materialise(lb, tmp_path, material).text
    assert check(lb, material) == ""


@pytest.mark.feature("listener.tls_ciphers")
def test_ciphers_are_split_by_version_and_keep_their_order(authority, tmp_path):
    ciphers = "ECDHE-ECDSA-AES256-GCM-SHA384:TLS_CHACHA20_POLY1305_SHA256:ECDHE-ECDSA-AES128-GCM-SHA256"
    material = Material(bundles={"default": authority.issue("www.test")})
    lb = load_balancer(tls_listener(tls_ciphers=ciphers))
    with running(lb, material) as served:
        context = authority.client_context()
        assert shake(served, context)[2] == "TLS_CHACHA20_POLY1305_SHA256"
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        assert shake(served, context)[2] in ("ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-GCM-SHA256")
        context.set_ciphers("ECDHE-ECDSA-CHACHA20-POLY1305")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            shake(served, context)
    text = materialise(lb, tmp_path, material).text
    assert " ciphers ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256 " in text
    only_new = load_balancer(tls_listener(tls_ciphers=ciphers, tls_versions=("TLSv1.3",)))
    assert " ciphers " not in materialise(only_new, tmp_path, material).text
    only_old = load_balancer(tls_listener(tls_ciphers=ciphers, tls_versions=("TLSv1.2",)))
    assert " ciphersuites " not in materialise(only_old, tmp_path, material).text


def test_what_cannot_be_a_cipher_string_is_replaced_by_the_default(authority, tmp_path):
    lb = load_balancer(tls_listener(tls_ciphers="ALL crt /etc/passwd"))
    material = Material(bundles={"default": authority.issue("www.test")})
    text = materialise(lb, tmp_path, material).text
    assert "passwd" not in text
    assert "ciphersuites TLS_AES_128_GCM_SHA256:" in text
    assert check(lb, material) == ""


@pytest.mark.parametrize(("field", "value"), [("tls_versions", ("TLSv2",)), ("alpn_protocols", ("h2 crt x",))])
def test_versions_and_protocols_that_do_not_exist_are_refused(field, value, authority, tmp_path):
    broken = tls_listener(**{field: value})
    with pytest.raises(PermanentError, match=f"listener {broken.id}: {field}"):
        materialise(load_balancer(broken), tmp_path, Material(bundles={"default": authority.issue("www.test")}))


@pytest.mark.feature("listener.alpn_protocols")
def test_application_protocols_are_negotiated(authority):
    material = Material(bundles={"default": authority.issue("www.test")})
    with running(load_balancer(tls_listener(alpn_protocols=("h2", "http/1.1"))), material) as served:
        for offered, chosen in ((["h2"], "h2"), (["http/1.1"], "http/1.1"), (["spdy/1"], None)):
            context = authority.client_context()
            context.set_alpn_protocols(offered)
            assert shake(served, context)[3] == chosen


@pytest.mark.feature("listener.hsts_max_age", "listener.hsts_include_subdomains", "listener.hsts_preload")
def test_strict_transport_security_is_announced(authority):
    material = Material(bundles={"default": authority.issue("www.test")})
    for options, header in (
        ({}, None),
        ({"hsts_max_age": 0}, "max-age=0;"),
        ({"hsts_max_age": 31536000, "hsts_include_subdomains": True}, "max-age=31536000; includeSubDomains;"),
        (
            {"hsts_max_age": 5, "hsts_include_subdomains": True, "hsts_preload": True},
            "max-age=5; includeSubDomains; preload;",
        ),
    ):
        with Echo("m") as member:
            p = pool(behind(member))
            with running(load_balancer(tls_listener(p, **options), p), material) as served:
                found = ask(served.address, PORT, tls=authority.client_context(), name="www.test")
                assert found.headers.get("strict-transport-security") == header


@pytest.mark.feature(
    "listener.client_ca_tls_certificate_id", "listener.client_authentication=MANDATORY",
    "listener.client_authentication=OPTIONAL", "listener.client_authentication=NONE",
    "listener.client_crl_container_id",
)  # fmt: skip
def test_client_certificates_are_asked_for_as_told(authority, client_authority):
    good, revoked = client_authority.issue("good.client"), client_authority.issue("revoked.client")
    material = Material(
        bundles={"default": authority.issue("www.test")},
        payloads={"ca": client_authority.pem, "crl": client_authority.revocation_list(revoked)},
    )
    stranger = authority.issue("good.client")
    nobody = None
    expected = {
        ClientAuthentication.NONE: {nobody: True, good: True},
        ClientAuthentication.OPTIONAL: {nobody: True, good: True, stranger: False, revoked: False},
        ClientAuthentication.MANDATORY: {nobody: False, good: True, stranger: False, revoked: False},
    }
    with Echo("m") as member:
        p = pool(behind(member))
        for authentication, answers in expected.items():
            one = tls_listener(
                p,
                client_authentication=authentication,
                client_ca_tls_certificate_id="ca",
                client_crl_container_id="crl",
            )
            with running(load_balancer(one, p), material) as served:
                for who, let_in in answers.items():
                    context = authority.client_context(who)
                    if let_in:
                        assert ask(served.address, PORT, tls=context, name="www.test").status == 200
                    else:
                        with pytest.raises((ssl.SSLError, ConnectionError)):
                            ask(served.address, PORT, tls=context, name="www.test")


@pytest.mark.feature(
    "listener.insert_headers", "l7rule.type=SSL_CONN_HAS_CERT", "l7rule.type=SSL_VERIFY_RESULT",
    "l7rule.type=SSL_DN_FIELD",
)  # fmt: skip
def test_members_and_rules_see_the_client_s_certificate(authority, client_authority):
    names = (
        "Verify", "Has-Cert", "DN", "CN", "SHA1", "Not-Before", "Not-After",
    )  # fmt: skip
    wanted = {f"X-SSL-Client-{name}": "true" for name in names} | {"X-SSL-Issuer": "true", "X-Forwarded-Proto": "true"}

    def reject(type, compare, value, path, **options):
        rules = (
            L7Rule(id=new_id(), type=type, compare_type=compare, value=value, **options),
            L7Rule(id=new_id(), type=L7RuleType.PATH, compare_type=CompareType.EQUAL_TO, value=path),
        )
        return L7Policy(id=new_id(), action=L7Action.REJECT, rules=rules)

    policies = (
        reject(L7RuleType.SSL_CONN_HAS_CERT, CompareType.EQUAL_TO, "True", "/needs-none"),
        reject(L7RuleType.SSL_CONN_HAS_CERT, CompareType.EQUAL_TO, "True", "/needs-one", invert=True),
        reject(L7RuleType.SSL_VERIFY_RESULT, CompareType.EQUAL_TO, "0", "/not-verified", invert=True),
        reject(L7RuleType.SSL_DN_FIELD, CompareType.STARTS_WITH, "alice", "/no-alice", key="CN"),
    )
    material = Material(bundles={"default": authority.issue("www.test")}, payloads={"ca": client_authority.pem})
    alice = client_authority.issue("alice.client", common_name="alice o'hara")
    with Echo("m") as member:
        p = pool(behind(member))
        one = tls_listener(
            p, insert_headers=wanted, l7policies=policies, client_ca_tls_certificate_id="ca",
            client_authentication=ClientAuthentication.OPTIONAL,
        )  # fmt: skip
        with running(load_balancer(one, p), material) as served:

            def get(path, who=None):
                return ask(served.address, PORT, path, tls=authority.client_context(who), name="www.test")

            seen = get("/", alice).echo["headers"]
            assert seen["x-forwarded-proto"] == "https"
            assert seen["x-ssl-client-verify"] == "0"
            assert seen["x-ssl-client-has-cert"] == "1"
            assert "alice o'hara" in seen["x-ssl-client-cn"]
            assert "alice o'hara" in seen["x-ssl-client-dn"]
            assert "trustme" in seen["x-ssl-issuer"]
            assert len(seen["x-ssl-client-sha1"].strip('"')) == 40
            assert seen["x-ssl-client-not-after"].strip('"').endswith("Z")
            assert seen["x-ssl-client-not-before"].strip('"').endswith("Z")
            assert get("/").echo["headers"]["x-ssl-client-has-cert"] == "0"
            assert [get(path, alice).status for path in ("/needs-none", "/needs-one", "/not-verified", "/no-alice")] == [
                403, 200, 200, 403,
            ]  # fmt: skip
            assert [get(path).status for path in ("/needs-none", "/needs-one", "/no-alice")] == [200, 403, 200]


@pytest.mark.feature(
    "pool.tls_enabled", "pool.ca_tls_certificate_id", "pool.tls_certificate_id", "pool.crl_container_id"
)
def test_pools_encrypt_towards_members_verify_them_and_show_a_certificate(authority, client_authority):
    members_ca, amphora = authority, client_authority.issue("amphora.client")
    good, revoked = members_ca.issue("www.test"), members_ca.issue("www.test")
    material = Material(
        bundles={"default": authority.issue("www.test"), "own": amphora},
        payloads={"ca": members_ca.pem, "crl": members_ca.revocation_list(revoked), "other": client_authority.pem},
    )
    encrypted = {"tls_enabled": True, "tls_certificate_id": "own"}
    by_ca = {"ca_tls_certificate_id": "ca"}
    with (
        Echo("m", tls=members_ca.server_context(good, clients=client_authority)) as member,
        Echo("r", tls=members_ca.server_context(revoked)) as gone,
    ):
        cases = (
            (member, encrypted, {200}),
            (member, encrypted | by_ca, {200}),
            (member, encrypted | by_ca | {"crl_container_id": "crl"}, {200}),
            (member, encrypted | {"ca_tls_certificate_id": "other"}, {502, 503}),
            (member, {"tls_enabled": True}, {502, 503}),
            (gone, {"tls_enabled": True} | by_ca | {"crl_container_id": "crl"}, {503}),
        )
        with side_by_side([(server, options) for server, options, _ in cases], tls_listener, material) as ask_all:
            answers = ask_all(tls=authority.client_context(), name="www.test")
        for (_, options, statuses), found in zip(cases, answers, strict=True):
            assert found.status in statuses, options
            if found.status == 200:
                assert "amphora.client" in str(found.echo["client_certificate"])


@contextlib.contextmanager
def side_by_side(pools, listening, material=None):
    """A load balancer with a listener for each of (server, options of its pool); gives what asks all of them at once.

    Since HAProxy tries a member that it cannot connect to three times more, a second apart, before it says so.
    """
    below = [pool([attrs.evolve(m, id=new_id()) for m in behind(server)], **options) for server, options in pools]
    ports = range(PORT, PORT + len(below))
    front = [listening(p, protocol_port=port) for p, port in zip(below, ports, strict=True)]
    with running(load_balancer(front, *below), material) as served, ThreadPoolExecutor(len(ports)) as threads:
        yield lambda **how: list(threads.map(lambda port: ask(served.address, port, **how), ports))


@pytest.mark.feature("pool.tls_ciphers", "pool.tls_versions", "pool.alpn_protocols")
def test_tls_parameters_of_a_pool_reach_its_members(authority):
    context = authority.server_context(authority.issue("www.test"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.0", "http/1.1"])
    first, second = "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"
    cases = (
        (("TLSv1.2", "TLSv1.3"), first, True),
        (("TLSv1.2",), second, True),
        (("TLSv1.3",), first, False),
    )
    with Echo("m", tls=context) as member:
        encrypted = {"tls_enabled": True, "alpn_protocols": ("http/1.1",)}
        wanted = [
            (member, encrypted | {"tls_versions": versions, "tls_ciphers": cipher}) for versions, cipher, _ in cases
        ]
        with side_by_side(wanted, listener) as ask_all:
            answers = ask_all()
        for (_, cipher, works), found in zip(cases, answers, strict=True):
            assert (found.status == 200) is works
            if works:
                assert (found.echo["cipher"], found.echo["alpn"]) == (cipher, "http/1.1")


def test_tls_parameters_say_nothing_without_tls(tmp_path):
    p = pool(tls_ciphers="AES", tls_versions=("TLSv1.2",), ca_tls_certificate_id="ca")
    text = materialise(load_balancer(listener(p), p), tmp_path).text
    assert "cipher" not in text
    assert "tlsv" not in text


def test_a_proxyv2_pool_behind_tls_carries_the_client_s_common_name(authority, client_authority):
    material = Material(bundles={"default": authority.issue("www.test")}, payloads={"ca": client_authority.pem})
    alice = client_authority.issue("alice.client", common_name="alice")
    with Echo("m", proxy=True) as member:
        p = pool(behind(member), PoolProtocol.PROXYV2)
        one = tls_listener(p, client_ca_tls_certificate_id="ca", client_authentication=ClientAuthentication.MANDATORY)
        with running(load_balancer(one, p), material) as served:
            seen = ask(served.address, PORT, tls=authority.client_context(alice), name="www.test").echo["proxy"]
            assert seen["tlvs"]["cn"] == "alice"


def test_one_certificate_of_many_listeners_is_one_file(authority, tmp_path):
    bundle = authority.issue("www.test")
    listeners = [tls_listener(protocol_port=port, sni_container_ids=("same",)) for port in (1, 2, 3)]
    wanted = materialise(load_balancer(listeners), tmp_path, Material(bundles={"default": bundle, "same": bundle}))
    private = [file for file in wanted.files.values() if not file.public]
    assert len(private) == 1
    assert len(wanted.files) == 4


def test_private_keys_are_in_no_text(authority, tmp_path):
    wanted = materialise(
        load_balancer(tls_listener()), tmp_path, Material(bundles={"default": authority.issue("a.test")})
    )
    assert "PRIVATE" not in wanted.text
    assert "PRIVATE" not in repr(wanted)
    assert all(
        "PRIVATE" not in attrs.asdict(file)["content"].reveal().decode()
        for file in wanted.files.values()
        if file.public
    )
