"""Authorities: upstream's certificate profile, a real handshake, and everything that is refused."""

from __future__ import annotations

import datetime as dt
import os
import socket
import ssl
import stat
import subprocess
import threading
from pathlib import Path

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from octavia_core.certs.authority import CONTROLLER_NAME, Authority, check_passphrases, create_authorities
from octavia_core.domain.secret import Secret
from octavia_core.errors import ConfigurationError
from octavia_core.settings import Settings, local_defaults
from octavia_core.testing.clock import VirtualClock

AMPHORA = "8f3a2c1e-0000-4000-8000-000000000001"
INSECURE = "insecure-key-do-not-use-this-key"


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    path = tmp_path_factory.mktemp("state")
    create_authorities(path / "authority")
    return path


@pytest.fixture
def settings(state):
    return Settings.load(("test", local_defaults(str(state))), state_directory=str(state))


def changed(settings, group="certificates", **values):
    return attrs.evolve(settings, **{group: attrs.evolve(getattr(settings, group), **values)})


def split(server_pem):
    certificate = x509.load_pem_x509_certificate(server_pem.reveal())
    return certificate, serialization.load_pem_private_key(server_pem.reveal(), None)


def test_the_profile_is_upstreams(settings):
    clock = VirtualClock()
    issued = Authority.from_settings(settings, clock).issue(AMPHORA)
    certificate, key = split(issued.server_pem)
    assert [(a.oid, a.value) for a in certificate.subject] == [(NameOID.COMMON_NAME, AMPHORA)]
    assert certificate.not_valid_before_utc.timestamp() == clock.now()
    assert certificate.not_valid_after_utc.timestamp() == issued.not_after == clock.now() + 2592000
    assert certificate.public_key() == key.public_key()
    found = {type(e.value): (e.critical, e.value) for e in certificate.extensions}
    assert found[x509.BasicConstraints] == (True, x509.BasicConstraints(ca=False, path_length=None))
    assert found[x509.SubjectAlternativeName] == (False, x509.SubjectAlternativeName([x509.DNSName(AMPHORA)]))
    critical, usage = found[x509.KeyUsage]
    assert critical
    assert (usage.digital_signature, usage.key_encipherment, usage.data_encipherment, usage.key_agreement) == (
        True,
    ) * 4
    assert (usage.content_commitment, usage.key_cert_sign, usage.crl_sign) == (False,) * 3
    critical, extended = found[x509.ExtendedKeyUsage]
    assert critical
    assert list(extended) == [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    authority = x509.load_pem_x509_certificate(Path(settings.certificates.ca_certificate).read_bytes())
    own = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert found[x509.AuthorityKeyIdentifier][1].key_identifier == own.key_identifier
    assert x509.SubjectKeyIdentifier in found
    certificate.verify_directly_issued_by(authority)


def test_the_certificate_stands_before_its_key(settings):
    pem = Authority.from_settings(settings).issue(AMPHORA).server_pem.reveal()
    assert pem.startswith(b"-----BEGIN CERTIFICATE-----")
    assert pem.index(b"-----BEGIN EC PRIVATE KEY-----") > pem.index(b"-----END CERTIFICATE-----")


def test_each_call_makes_a_new_key_and_number(settings):
    authority = Authority.from_settings(settings)
    (one, first), (two, second) = (split(authority.issue(AMPHORA).server_pem) for _ in range(2))
    assert one.serial_number != two.serial_number
    assert first.private_numbers() != second.private_numbers()


def test_openssl_agrees(settings, tmp_path):
    (tmp_path / "server.pem").write_bytes(Authority.from_settings(settings).issue(AMPHORA).server_pem.reveal())
    for purpose in ("sslserver", "sslclient"):
        command = [
            "openssl",
            "verify",
            "-purpose",
            purpose,
            "-x509_strict",
            "-CAfile",
            settings.certificates.ca_certificate,
        ]
        done = subprocess.run([*command, tmp_path / "server.pem"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def handshake(server_pem, controllers, client, agents):
    """A TLS handshake on loopback with verification on both sides; returns what each side saw of the other."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(server_pem)
    server_context.load_verify_locations(controllers)
    server_context.verify_mode = ssl.CERT_REQUIRED
    client_context = ssl.create_default_context(cafile=agents)
    client_context.load_cert_chain(client)
    seen = {}
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            plain, _ = listener.accept()
            try:
                with server_context.wrap_socket(plain, server_side=True) as tls:
                    seen["client"] = tls.getpeercert()
                    tls.sendall(b"ok")
            except (ssl.SSLError, OSError) as error:
                seen["refused"] = error

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname(), timeout=60) as plain,
                client_context.wrap_socket(plain, server_hostname=AMPHORA) as tls,
            ):
                seen["answer"] = tls.recv(2)
        except (ssl.SSLError, OSError) as error:
            seen["broken"] = error
        thread.join()
    return seen


def test_controller_and_agent_shake_hands_and_amphorae_cannot_command_each_other(settings, state, tmp_path):
    authority = Authority.from_settings(settings)
    server_pem, controllers = tmp_path / "server.pem", tmp_path / "client_ca.pem"
    server_pem.write_bytes(authority.issue(AMPHORA).server_pem.reveal())
    controllers.write_bytes(authority.controller_ca())
    seen = handshake(server_pem, controllers, settings.haproxy_amphora.client_cert, settings.haproxy_amphora.server_ca)
    assert seen["answer"] == b"ok"
    assert seen["client"]["subject"] == ((("commonName", CONTROLLER_NAME),),)
    other = tmp_path / "other.pem"
    other.write_bytes(authority.issue("8f3a2c1e-0000-4000-8000-000000000002").server_pem.reveal())
    seen = handshake(server_pem, controllers, other, settings.haproxy_amphora.server_ca)
    assert "refused" in seen
    assert seen.get("answer") != b"ok"


def test_authorities_are_private_random_and_made_once(state, tmp_path):
    before = {path.name: path.read_bytes() for path in (state / "authority").iterdir()}
    assert set(before) == {"agents.pem", "agents.key", "controllers.pem", "controllers.key", "controller.pem"}
    create_authorities(state / "authority")
    assert {path.name: path.read_bytes() for path in (state / "authority").iterdir()} == before
    create_authorities(tmp_path / "other")
    assert (tmp_path / "other/agents.key").read_bytes() != before["agents.key"]
    assert stat.S_IMODE((state / "authority").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (state / "authority").iterdir()} == {0o600}


def test_starts_that_compete_have_the_same_authorities(tmp_path):
    barrier = threading.Barrier(4)

    def make():
        barrier.wait()
        create_authorities(tmp_path / "authority")

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.listdir(tmp_path) == ["authority"]
    settings = Settings.load(("test", local_defaults(str(tmp_path))))
    Authority.from_settings(settings).issue(AMPHORA)


def test_a_passphrase_encrypts_the_authority_at_rest(tmp_path):
    word = Secret("correct horse battery staple")
    create_authorities(tmp_path / "authority", passphrase=word)
    assert b"ENCRYPTED" in (tmp_path / "authority/agents.key").read_bytes()
    settings = Settings.load(("test", local_defaults(str(tmp_path))))
    with pytest.raises(ConfigurationError, match="is encrypted; set"):
        Authority.from_settings(settings)
    with pytest.raises(ConfigurationError, match="wrong passphrase") as caught:
        Authority.from_settings(changed(settings, ca_private_key_passphrase=Secret("not this word")))
    assert "not this word" not in str(caught.value)
    Authority.from_settings(changed(settings, ca_private_key_passphrase=word)).issue(AMPHORA)


def test_one_authority_for_both_is_refused(settings, caplog):
    same = changed(settings, "controller_worker", client_ca=settings.certificates.ca_certificate)
    with pytest.raises(ConfigurationError, match="any amphora could command all others"):
        Authority.from_settings(same)
    assert Authority.from_settings(same, drop_in=True).issue(AMPHORA)
    assert "any amphora could command all others" in caplog.text


def test_the_same_key_in_another_certificate_is_the_same_authority(settings, tmp_path):
    key = serialization.load_pem_private_key(Path(settings.certificates.ca_private_key).read_bytes(), None)
    renewed = tmp_path / "renewed.pem"
    renewed.write_bytes(authority_certificate(key, "renewed"))
    with pytest.raises(ConfigurationError, match="same authority"):
        Authority.from_settings(changed(settings, "controller_worker", client_ca=str(renewed)))


def authority_certificate(key, name, *, ca=True, end=None):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    end = end or dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(end - dt.timedelta(days=2))
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def own_authority(settings, tmp_path, key, **how):
    (tmp_path / "ca.pem").write_bytes(authority_certificate(key, "of an existing cloud", **how))
    (tmp_path / "ca.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return changed(settings, ca_certificate=str(tmp_path / "ca.pem"), ca_private_key=str(tmp_path / "ca.key"))


def test_under_an_rsa_authority_agents_have_rsa_2048(settings, tmp_path):
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    issued = Authority.from_settings(own_authority(settings, tmp_path, key)).issue(AMPHORA)
    certificate, own = split(issued.server_pem)
    assert isinstance(own, rsa.RSAPrivateKey)
    assert own.key_size == 2048
    assert b"-----BEGIN RSA PRIVATE KEY-----" in issued.server_pem.reveal()
    assert certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier


def test_what_is_no_authority_is_refused(settings, tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(ConfigurationError, match="is no authority"):
        Authority.from_settings(own_authority(settings, tmp_path, key, ca=False))
    past = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    with pytest.raises(ConfigurationError, match="expired on"):
        Authority.from_settings(own_authority(settings, tmp_path, key, end=past))
    with pytest.raises(ConfigurationError, match="is not the key of"):
        Authority.from_settings(changed(settings, ca_private_key=str(tmp_path / "ca.key")))


@pytest.mark.parametrize(
    ("group", "option"),
    [("certificates", "ca_certificate"), ("certificates", "ca_private_key"), ("controller_worker", "client_ca")],
)
@pytest.mark.parametrize("content", [None, b"nothing of use"])
def test_missing_and_damaged_files_are_named(settings, tmp_path, group, option, content):
    path = tmp_path / "file.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=option) as caught:
        Authority.from_settings(changed(settings, group, **{option: str(path)}))
    assert str(path) in str(caught.value)


def test_upstreams_builtin_passphrase_is_refused(settings):
    for values in (
        {"server_certs_key_passphrase": (Secret("x"), Secret(INSECURE))},
        {"ca_private_key_passphrase": Secret(INSECURE)},
    ):
        with pytest.raises(ConfigurationError, match="everybody knows"):
            check_passphrases(changed(settings, **values))
        with pytest.raises(ConfigurationError, match=next(iter(values))):
            Authority.from_settings(changed(settings, **values))
    check_passphrases(settings)


def test_nothing_secret_is_shown(settings):
    authority = Authority.from_settings(settings)
    assert "PRIVATE" not in repr(authority) + repr(authority.issue(AMPHORA))
