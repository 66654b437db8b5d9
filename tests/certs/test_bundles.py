"""From payloads to bundles: every form that stores give, and one sentence for each that cannot be."""

from __future__ import annotations

import datetime

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519
from cryptography.hazmat.primitives.serialization import pkcs7, pkcs12
from hypothesis import given
from hypothesis import strategies as st

from octavia_core.certs.bundles import read_bundle, read_payload
from octavia_core.domain.secret import CertificateBundle, PublicSecret, Secret, SecretKind
from octavia_core.errors import SecretMissing

PEM, DER = serialization.Encoding.PEM, serialization.Encoding.DER
WORD = b"a pass phrase"


class Chain:
    """Root, two intermediates, leaf."""

    def __init__(self):
        root = trustme.CA()
        middle = root.create_child_ca()
        lower = middle.create_child_ca()
        issued = lower.issue_cert("WWW.Example.org", "other.example.org", common_name="Main.Example.org")
        pems = [blob.bytes() for blob in issued.cert_chain_pems]
        self.leaf, self.lower, self.middle = (x509.load_pem_x509_certificate(pem) for pem in pems)
        self.key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
        self.root = x509.load_pem_x509_certificate(root.cert_pem.bytes())

    def key_bytes(self, encoding=PEM, form=serialization.PrivateFormat.PKCS8, word=None):
        cipher = serialization.BestAvailableEncryption(word) if word else serialization.NoEncryption()
        return self.key.private_bytes(encoding, form, cipher)


@pytest.fixture(scope="module")
def chain():
    return Chain()


def text(certificate):
    return certificate.public_bytes(PEM).decode().strip()


def payloads(**values):
    return {name: Secret(value) for name, value in values.items()}


def expect(chain, bundle):
    assert bundle.certificate == text(chain.leaf)
    assert bundle.intermediates == (text(chain.lower), text(chain.middle))
    assert bundle.names == ("main.example.org", "www.example.org", "other.example.org")
    assert bundle.not_after == int(chain.leaf.not_valid_after_utc.timestamp())
    key = serialization.load_pem_private_key(bundle.private_key.reveal(), None)
    assert key.public_key() == chain.leaf.public_key()
    assert b"ENCRYPTED" not in bundle.private_key.reveal()


def many(certificates, encoding=PEM):
    return b"".join(certificate.public_bytes(encoding) for certificate in certificates)


@pytest.mark.parametrize("encoding", [PEM, DER])
@pytest.mark.parametrize("key_encoding", [PEM, DER])
@pytest.mark.parametrize("form", [serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL])
def test_certificate_and_key_in_pem_and_der(chain, encoding, key_encoding, form):
    bundle = read_bundle(
        "web",
        payloads(
            certificate=chain.leaf.public_bytes(encoding),
            private_key=chain.key_bytes(key_encoding, form),
            intermediates=many([chain.lower, chain.middle]),
        ),
    )
    expect(chain, bundle)


@pytest.mark.parametrize("encoding", [PEM, DER])
def test_an_encrypted_key_with_its_passphrase(chain, encoding):
    given_ = payloads(
        certificate=many([chain.leaf]),
        private_key=chain.key_bytes(encoding, word=WORD),
        private_key_passphrase=WORD,
        intermediates=many([chain.lower, chain.middle]),
    )
    expect(chain, read_bundle("web", given_))


def test_a_passphrase_that_is_not_needed_is_ignored(chain):
    given_ = payloads(certificate=many([chain.leaf]), private_key=chain.key_bytes(), private_key_passphrase=WORD)
    assert read_bundle("web", given_).certificate == text(chain.leaf)


@pytest.mark.parametrize("encoding", [PEM, DER])
def test_intermediates_in_pkcs7(chain, encoding):
    container = pkcs7.serialize_certificates([chain.middle, chain.lower], encoding)
    given_ = payloads(certificate=many([chain.leaf]), private_key=chain.key_bytes(), intermediates=container)
    expect(chain, read_bundle("web", given_))


@pytest.mark.parametrize("word", [None, WORD])
def test_everything_in_pkcs12(chain, word):
    cipher = serialization.BestAvailableEncryption(word) if word else serialization.NoEncryption()
    bundle = pkcs12.serialize_key_and_certificates(b"web", chain.key, chain.leaf, [chain.lower, chain.middle], cipher)
    given_ = payloads(pkcs12=bundle) | (payloads(private_key_passphrase=word) if word else {})
    expect(chain, read_bundle("web", given_))


@given(order=st.permutations(range(3)))
def test_any_order_of_the_chain_comes_out_in_sending_order(order):
    chain = _CHAIN
    certificates = [chain.leaf, chain.lower, chain.middle]
    given_ = payloads(certificate=many(certificates[i] for i in order), private_key=chain.key_bytes())
    expect(chain, read_bundle("web", given_))


_CHAIN = Chain()


def test_an_authority_that_is_not_linked_comes_last_and_repeats_are_dropped(chain):
    stranger = x509.load_pem_x509_certificate(trustme.CA().cert_pem.bytes())
    given_ = payloads(
        certificate=many([chain.leaf]),
        private_key=chain.key_bytes(),
        intermediates=many([stranger, chain.middle, chain.lower, chain.middle, chain.leaf]),
    )
    expected = (text(chain.lower), text(chain.middle), text(stranger))
    assert read_bundle("web", given_).intermediates == expected


def test_ed25519_goes_out_as_pkcs8():
    key = ed25519.Ed25519PrivateKey.generate()
    certificate = self_signed(key, "modern.example.org")
    pem = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    bundle = read_bundle("web", payloads(certificate=certificate, private_key=pem))
    assert bundle.private_key.reveal() == pem


def self_signed(key, name):
    import datetime as dt

    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)] if name else [])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + dt.timedelta(days=1))
    return builder.sign(key, None).public_bytes(PEM)


def refused(given_, ref="the-ref"):
    with pytest.raises(SecretMissing) as caught:
        read_bundle(ref, given_)
    sentence = str(caught.value)
    assert ref in sentence
    assert "\n" not in sentence
    assert "BEGIN" not in sentence
    return sentence


def test_what_cannot_be_is_one_sentence_naming_the_reference(chain):
    other = Chain()
    certificate, key = many([chain.leaf]), chain.key_bytes()
    assert "does not belong" in refused(payloads(certificate=certificate, private_key=other.key_bytes()))
    assert "no private key" in refused(payloads(certificate=certificate))
    assert "no certificate" in refused(payloads(private_key=key))
    assert "it has: nothing" in refused({})
    assert "is no certificate" in refused(payloads(certificate=b"junk", private_key=key))
    assert "cannot be read" in refused(payloads(certificate=certificate, private_key=b"junk"))
    assert "PKCS #12" in refused(payloads(pkcs12=b"junk"))
    encrypted = chain.key_bytes(word=WORD)
    assert "no passphrase" in refused(payloads(certificate=certificate, private_key=encrypted))
    wrong = refused(payloads(certificate=certificate, private_key=encrypted, private_key_passphrase=b"wrong words"))
    assert "wrong words" not in wrong
    assert "damaged" in refused(payloads(certificate=certificate[:200] + certificate[210:], private_key=key))


def test_a_certificate_without_any_name_is_refused():
    key = ed25519.Ed25519PrivateKey.generate()
    pem = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    assert "neither a common name" in refused(payloads(certificate=self_signed(key, ""), private_key=pem))


def test_a_key_that_tls_does_not_use_is_refused(chain):
    key = dsa.generate_private_key(2048)
    pem = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    assert "DSA" in refused(payloads(certificate=many([chain.leaf]), private_key=pem))


@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            ["certificate", "private_key", "intermediates", "private_key_passphrase", "pkcs12", "payload"],
            st.binary(max_size=300)
            | st.binary(max_size=60).map(
                lambda b: b"-----BEGIN CERTIFICATE-----\n" + b + b"\n-----END CERTIFICATE-----\n"
            )
            | st.binary(max_size=60).map(
                lambda b: b"-----BEGIN PRIVATE KEY-----\n" + b + b"\n-----END PRIVATE KEY-----\n"
            ),
        ),
    )
)
def test_no_bytes_get_past_as_anything_but_a_bundle_or_a_sentence(values):
    for read, kind in ((read_bundle, CertificateBundle), (read_payload, PublicSecret)):
        try:
            assert isinstance(read("ref", payloads(**values)), kind)
        except SecretMissing as error:
            assert "ref" in str(error)


def test_authorities_and_revocations_as_payload(chain):
    both = read_payload("ca", payloads(payload=many([chain.root, chain.middle])))
    assert both.text == many([chain.root, chain.middle]).decode()
    assert read_payload("ca", payloads(payload=many([chain.root], DER))).text == many([chain.root]).decode()
    for sentence, content in (
        ("neither", b"junk"),
        ("damaged", b"-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----"),
    ):
        with pytest.raises(SecretMissing, match=sentence):
            read_payload("ca", payloads(payload=content))


def test_comments_round_a_payload_are_left_out(chain):
    content = b"# our authority\n" + many([chain.root]) + b"\n# the end\n"
    assert read_payload("ca", payloads(payload=content)).text == many([chain.root]).decode()


def revocations(ca_key, name, *, days):
    day = datetime.timedelta(days=1)
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateRevocationListBuilder().issuer_name(name).last_update(now - 9 * day)
    return made.next_update(now + days * day).sign(ca_key, hashes.SHA256()).public_bytes(PEM)


def test_a_payload_says_what_it_holds_and_until_when(chain):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "authority")])
    both = revocations(key, name, days=5) + revocations(key, name, days=-1)
    found = read_payload("crl", payloads(payload=both))
    assert (found.kind, found.text) == (SecretKind.REVOCATIONS, both.decode())
    assert found.not_after is not None
    assert found.not_after < datetime.datetime.now(datetime.UTC).timestamp()
    assert read_payload("ca", payloads(payload=many([chain.leaf, chain.middle]))).kind is SecretKind.AUTHORITIES
    assert read_payload("ca", payloads(payload=many([chain.leaf]))).kind is SecretKind.CERTIFICATES
    own = self_signed(ed25519.Ed25519PrivateKey.generate(), "only-me")
    assert read_payload("ca", payloads(payload=own)).kind is SecretKind.AUTHORITIES, "trusted for itself"
