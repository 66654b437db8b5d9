"""The file secret store."""

from __future__ import annotations

import os

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509 import load_pem_x509_certificate

from octavia_core.certs.bundles import read_bundle, read_payload
from octavia_core.errors import SecretMissing
from octavia_core.settings import Settings
from octavia_local.secrets import FileSecrets


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "secrets"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def store(folder):
    return FileSecrets(Settings.load(("test", {"certificates": {"storage_path": str(folder)}})))


@pytest.fixture(scope="module")
def issued():
    return trustme.CA().create_child_ca().issue_cert("www.example.org")


def write(path, content):
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_bytes(content)
    path.chmod(0o600)


def test_a_directory_with_certificate_key_and_intermediates(store, folder, issued):
    leaf, intermediate = issued.cert_chain_pems
    write(folder / "web/certificate.pem", leaf.bytes())
    write(folder / "web/private_key.pem", issued.private_key_pem.bytes())
    write(folder / "web/intermediates.pem", intermediate.bytes())
    bundle = read_bundle("web", store.fetch("web"))
    assert bundle.names == ("www.example.org",)
    assert len(bundle.intermediates) == 1


@pytest.mark.parametrize("name", ["web.pem", "web"])
@pytest.mark.parametrize("key_first", [True, False])
def test_one_file_with_everything(store, folder, issued, name, key_first):
    chain = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
    key = issued.private_key_pem.bytes()
    write(folder / name, key + chain if key_first else chain + key)
    bundle = read_bundle("web", store.fetch("web"))
    assert len(bundle.intermediates) == 1


def test_pkcs12(store, folder, issued):
    certificate = load_pem_x509_certificate(issued.cert_chain_pems[0].bytes())
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    write(
        folder / "web.p12",
        pkcs12.serialize_key_and_certificates(b"web", key, certificate, None, serialization.NoEncryption()),
    )
    assert read_bundle("web", store.fetch("web")).names == ("www.example.org",)


def test_authorities_without_key_are_a_payload(store, folder, issued):
    write(folder / "clients.pem", issued.cert_chain_pems[1].bytes())
    assert "BEGIN CERTIFICATE" in read_payload("clients", store.fetch("clients")).text


def test_an_absolute_file_reference(store, tmp_path, issued):
    path = tmp_path / "elsewhere.pem"
    write(path, issued.private_key_and_cert_chain_pem.bytes())
    assert read_bundle("x", store.fetch(f"file://{path}")).names == ("www.example.org",)


@pytest.mark.parametrize(
    "ref", ["../outside", "a/../../outside", "/etc/passwd", "", ".", "a//b", "a\0b", "file:///a/../b"]
)
def test_references_that_lead_out_are_refused(store, tmp_path, ref):
    write(tmp_path / "outside", b"something")
    with pytest.raises(SecretMissing):
        store.fetch(ref)


def test_a_link_that_leads_out_is_refused(store, folder, tmp_path):
    write(tmp_path / "outside", b"something")
    (folder / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(SecretMissing, match="leads out"):
        store.fetch("link")


def test_a_file_that_others_may_write_is_refused(store, folder):
    write(folder / "web", b"something")
    (folder / "web").chmod(0o666)
    with pytest.raises(SecretMissing, match="chmod 600"):
        store.fetch("web")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a file to another user")
def test_a_file_of_another_user_is_refused(store, folder):
    write(folder / "web", b"something")
    os.chown(folder / "web", 65534, 65534)
    with pytest.raises(SecretMissing, match="belongs to user 65534"):
        store.fetch("web")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_names_path_and_reason(store, folder):
    write(folder / "web", b"something")
    (folder / "web").chmod(0)
    with pytest.raises(SecretMissing, match="Permission denied") as caught:
        store.fetch("web")
    assert str(folder / "web") in str(caught.value)


def test_what_is_no_plain_file_or_too_large_is_refused(store, folder):
    os.mkfifo(folder / "pipe", 0o600)
    with pytest.raises(SecretMissing, match="is a FIFO, and a secret is a plain file"):
        store.fetch("pipe")
    with pytest.raises(SecretMissing, match="/dev/zero is a device"):
        store.fetch("file:///dev/zero")
    write(folder / "large", b"x" * (1024 * 1024 + 1))
    with pytest.raises(SecretMissing, match="at most"):
        store.fetch("large")


@pytest.mark.parametrize("name", ["certificate.pem", "private_key.pem"])
def test_half_a_directory_says_what_is_missing(store, folder, name):
    write(folder / "web" / name, b"something")
    other = {"certificate.pem": "private_key.pem", "private_key.pem": "certificate.pem"}[name]
    with pytest.raises(SecretMissing, match=f"has no {other}"):
        store.fetch("web")


def test_a_key_without_certificate_is_refused_and_not_shown(store, folder, issued):
    write(folder / "web", issued.private_key_pem.bytes())
    with pytest.raises(SecretMissing, match="no certificate") as caught:
        store.fetch("web")
    assert "BEGIN" not in str(caught.value)
