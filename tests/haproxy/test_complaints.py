"""What HAProxy complains of names what was asked for, once, and which secret is at fault."""

from __future__ import annotations

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from octavia_core.domain.amphora import Amphora
from octavia_core.domain.secret import CertificateBundle, Secret
from octavia_core.domain.tree import L7Policy, L7Rule, Member
from octavia_core.domain.vocabulary import AmphoraStatus, CompareType, L7Action, L7RuleType, ListenerProtocol
from octavia_core.errors import AmphoraRefused
from octavia_core.ports.amphora import Delivery, Material
from octavia_haproxy.complaints import explained, plainly
from octavia_haproxy.driver import HaproxyDriver
from tests.haproxy.agent import AMPHORA_ID, Agent, Reply, controller_settings
from tests.support.running import check
from tests.support.trees import listener, load_balancer, pool

TLS = ListenerProtocol.TERMINATED_HTTPS
FILE = "lists/var+lib+octavia+certs+{lb}+{listener}.list"


def weakened(strong: CertificateBundle) -> CertificateBundle:
    """The same certificate with an RSA key of 1024 bits."""
    key = rsa.generate_private_key(65537, 1024)
    old = x509.load_pem_x509_certificate(strong.certificate.encode())
    made = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(old.subject)
        .public_key(key.public_key())
        .serial_number(old.serial_number)
        .not_valid_before(old.not_valid_before_utc)
        .not_valid_after(old.not_valid_after_utc)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    text = made.public_bytes(serialization.Encoding.PEM).decode().strip()
    return attrs.evolve(strong, certificate=text, private_key=Secret(pem), intermediates=())


@pytest.fixture(scope="module")
def secrets(authority) -> Material:
    strong = authority.issue("a.test")
    return Material(bundles={"good": strong, "again": strong, "weak": weakened(authority.issue("b.test"))})


def secure(*refs, **options):
    one = listener(protocol=TLS, tls_certificate_id=refs[0], sni_container_ids=refs[1:], **options)
    return load_balancer(one), one


def alerts(*lines, version=2):
    begin = "[ALERT]    (7) : config : " if version == 2 else "[ALERT]    (7) : "
    return "".join(f"{begin}{line}\n" for line in (*lines, "Fatal errors found in configuration."))


def in_list(lb, one, line, tail="", file=FILE):
    place = file.format(lb=lb.id, listener=one.id)
    return (
        f"parsing [haproxy.cfg:27] : 'bind fd@12' in section 'frontend' : 'crt-list' : error processing line {line} in file "
        f"'{place}' : unable to load SSL certificate into SSL Context '{place}-{line - 1}.pem'{tail}."
    )


@pytest.mark.parametrize("tail", ["", ": ee key too small"])
def test_a_key_that_is_too_weak_names_its_listener_and_secret(secrets, tail):
    lb, one = secure("good", "again", "weak")  # a file for each certificate, so the second line is the third secret
    assert plainly(alerts(in_list(lb, one, 2, tail)), lb, secrets) == (
        f"listener {one.id}: HAProxy cannot load certificate weak: its RSA key has 1024 bits, which is too weak for the TLS "
        "library there; 2048 are enough"
    )
    there = in_list(lb, one, 1, ": some reason", "/var/lib/octavia/certs/{lb}/{listener}.pem")
    assert plainly(alerts(there), lb, secrets) == (
        f"listener {one.id}: HAProxy cannot load certificate good" + ": some reason"
    )
    assert "error processing line 9" not in plainly(alerts(in_list(lb, one, 9)), lb, secrets)


def test_what_all_members_of_a_pool_have_is_said_once_and_what_one_has_of_that_one():
    p, other = pool(), pool()
    lb = load_balancer(listener(p), p, other)
    name = f"{p.id}:{lb.listeners[0].id}"
    many = [f"[h.cfg:{n}] : 'server {name}/m{n}' : unable to set SSL cipher list to 'NOSUCH'." for n in range(30)]
    alone = f"[h.cfg:99] : 'server {name}/m7' : weight of server m7 is not within 0 and 256 (999)."
    assert plainly(alerts(*many, alone), lb, Material()) == (
        f"pool {p.id}: unable to set SSL cipher list to 'NOSUCH'; "
        f"member m7 of pool {p.id}: weight of server m7 is not within 0 and 256 (999)"
    )


@pytest.mark.parametrize("version", [2, 3])
def test_a_listener_on_several_addresses_is_named_once(version):
    lb = load_balancer(listener())
    said = f"Proxy '{lb.listeners[0].id}': unable to set SSL cipher list to 'NO' for bind '%s' at [haproxy.cfg:%d]."
    both = alerts(said % ("127.0.0.1:1", 9), said % ("[::1]:1", 10), version=version)
    assert plainly(both, lb, Material()) == f"listener {lb.listeners[0].id}: unable to set SSL cipher list to 'NO'"


def test_a_rule_is_named_and_its_echo_is_left_out():
    said = (
        "parsing [h.cfg:10] : error detected while parsing ACL 'r-1' : regex '[[.a.]]' is invalid (error=no, erroffset=1).",
        "parsing [h.cfg:11] : error detected while parsing an 'http-request deny' condition : no such ACL : 'r-1'.",
    )
    assert plainly(alerts(*said), load_balancer(()), Material()) == (
        "L7 rule r-1: regex '[[.a.]]' is invalid (error=no, erroffset=1)"
    )


def test_what_is_not_understood_is_told_as_it_was_said():
    refused = AmphoraRefused("the agent said no: [x] oh; my", status=400, details="[x] oh; my")
    delivery = Delivery(load_balancer=load_balancer(()), amphora=Amphora(id="a", status=AmphoraStatus.ALLOCATED))
    assert explained(refused, delivery) is refused


def test_real_complaints_are_read(secrets):
    """Of the HAProxy that is here; not every TLS library refuses weak keys."""
    members = [Member(id=f"m{n}", address="127.0.0.1", protocol_port=n) for n in range(1, 4)]
    p = pool(members, tls_enabled=True, tls_ciphers="NOSUCH")
    lb = load_balancer(listener(p), p)
    assert plainly(check(lb), lb, Material()) == f"pool {p.id}: unable to set SSL cipher list to 'NOSUCH'"
    lb, one = secure("good", tls_ciphers="NOSUCH")
    assert plainly(check(lb, secrets), lb, secrets) == f"listener {one.id}: unable to set SSL cipher list to 'NOSUCH'"
    bad = L7Rule(id="rule", type=L7RuleType.PATH, compare_type=CompareType.REGEX, value="(")
    policies = (L7Policy(id="policy", action=L7Action.REJECT, position=1, rules=(bad,)),)
    lb = load_balancer(listener(l7policies=policies))
    assert plainly(check(lb), lb, Material()).startswith("L7 rule rule: regex '(' is invalid")
    lb, one = secure("good", "weak")
    told = plainly(check(lb, secrets), lb, secrets)
    assert told == "" or told.startswith(
        f"listener {one.id}: HAProxy cannot load certificate weak: its RSA key has 1024"
    )
    p = pool(members, tls_enabled=True, tls_certificate_id="weak")
    lb = load_balancer(listener(p), p)
    told = plainly(check(lb, secrets), lb, secrets)
    assert told == "" or told.startswith(
        f"pool {p.id}: HAProxy cannot load certificate weak: its RSA key has 1024 bits"
    )


def test_a_push_that_is_refused_says_it_so(secrets, tmp_path):
    lb, one = secure("weak")
    with Agent() as agent:
        driver = HaproxyDriver(controller_settings(agent, tmp_path))
        upload = f"PUT /1.0/loadbalancer/{AMPHORA_ID}/{lb.id}/haproxy"
        agent.answers[upload] = Reply(400, {"message": "Invalid request", "details": alerts(in_list(lb, one, 1))})
        amphora = Amphora(id=AMPHORA_ID, status=AmphoraStatus.ALLOCATED)
        with pytest.raises(AmphoraRefused) as refused:
            driver.push(agent.at, Delivery(load_balancer=lb, amphora=amphora, material=secrets))
        driver.close()
    assert f"): listener {one.id}: HAProxy cannot load certificate weak: its RSA key has 1024 bits" in str(
        refused.value
    )
    assert (refused.value.status, "crt-list" in refused.value.details) == (400, True)
