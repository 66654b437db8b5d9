"""What an amphora refuses leaves traffic as it was; only what was asked for is in ERROR, until it is mended or deleted."""

from __future__ import annotations

import os
import signal
import socket

import pytest

from octavia_core import NewListener, NewLoadBalancer, NewPool
from octavia_core.domain.vocabulary import AmphoraStatus, Kind, ListenerProtocol, Provisioning
from octavia_core.errors import OperationFailed
from tests.main_job.stage import PATIENCE, behind, http, only_pool, open_stage, until
from tests.support.calm import CALM
from tests.support.running import Echo
from tests.support.running import ask as ask_at


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """Secrets are looked at each time: what vanishes is missed at once."""
    with open_stage(tmp_path_factory.mktemp("stage") / "state", f"{CALM}[certificates]\ncache_seconds = 0\n") as stage:
        yield stage


ACTIVE, ERROR = Provisioning.ACTIVE, Provisioning.ERROR


def in_error(stage, lb):
    """Ids of what is in ERROR."""
    return {node.id for _, node in stage.tree(lb.id).nodes() if node.provisioning_status is ERROR}


def taken_port(stage, lb):
    """Somebody listens on the VIP's port already, which validity cannot know."""
    return socket.create_server((lb.vip.ip_address, 8099))


def tls(certificate, pool, **options):
    return NewListener(
        protocol=ListenerProtocol.TERMINATED_HTTPS,
        protocol_port=8443,
        tls_certificate_id=certificate,
        default_pool=pool,
        **options,
    )


def test_a_refused_listener_is_the_only_one_in_error_and_deleting_it_heals(stage):
    control = stage.controller
    with Echo("one") as one, Echo("two") as two:
        lb = stage.build(http(*behind(one)))
        with taken_port(stage, lb):
            made = control.create_listener(lb.id, http(port=8099))
            with pytest.raises(OperationFailed, match="8099") as caught:
                made.wait(PATIENCE)
            assert "Traceback" not in str(caught.value)
            tree = stage.tree(lb.id)
            assert tree.provisioning_status is ACTIVE
            assert tree.listener(made.subject_id).provisioning_status is ERROR
            assert made.subject_id in in_error(stage, lb)
            assert in_error(stage, lb) <= {subject.id for subject in made.row.subjects}
            assert stage.ask(lb).member == "one"
            assert "8099" in str(control.why(made.subject_id))
            assert any(
                e.name == "operation.failed" and "8099" in e.text for e in control.events(load_balancer_id=lb.id)
            )
            # another change works, though the bad one is still there
            control.create_member(only_pool_of(tree, 8080), *behind(two)).wait(PATIENCE)
            assert set(stage.served(lb)) == {"one", "two"}
            assert made.subject_id in in_error(stage, lb)
            stage.delete(Kind.LISTENER, made.subject_id)
        for id in in_error(stage, lb):  # its pool
            stage.delete(Kind.POOL, id)
        assert stage.statuses(lb.id) == {ACTIVE}
        assert set(stage.served(lb)) == {"one", "two"}


def only_pool_of(tree, port):
    return next(one for one in tree.listeners if one.protocol_port == port).default_pool_id


def test_a_refused_listener_is_mended_by_another_try(stage):
    control = stage.controller
    with Echo("one") as one:
        lb = stage.build(http(*behind(one)))
        with taken_port(stage, lb):
            made = control.create_listener(lb.id, http(*behind(one), port=8099))
            with pytest.raises(OperationFailed):
                made.wait(PATIENCE)
            assert len(in_error(stage, lb)) == 3  # with its pool and its member
        stage.update(Kind.LISTENER, made.subject_id, name="again")
        assert stage.statuses(lb.id) == {ACTIVE}
        lb = stage.tree(lb.id)
        assert [stage.ask(lb, listener=at).member for at in (0, 1)] == ["one", "one"]


def test_a_change_that_haproxy_refuses_is_taken_back(stage, authority):
    """A cipher list that is text for us and nothing for HAProxy: its own words are the reason."""
    control = stage.controller
    stage.put_secret("www", authority.issue("www.test"))
    with Echo("one") as one:
        lb = stage.build(tls("www", NewPool(members=behind(one))), http(*behind(one)))
        client = authority.client_context()
        secured = next(one for one in lb.listeners if one.protocol_port == 8443)

        def ask():
            return stage.ask(lb, listener=secured, tls=client, name="www.test").member

        assert ask() == "one"
        changed = control.update(Kind.LISTENER, secured.id, tls_ciphers="NO-SUCH-CIPHER", tls_versions=["TLSv1.2"])
        with pytest.raises(OperationFailed) as caught:
            changed.wait(PATIENCE)
        assert "cipher" in str(caught.value).lower()
        assert in_error(stage, lb) == {secured.id}
        assert (ask(), stage.ask(lb).member) == ("one", "one")
        # a failover renders the last good form of what is in ERROR
        (before,) = control.amphorae(lb.id)
        control.failover_load_balancer(lb.id).wait(PATIENCE)
        (after,) = control.amphorae(lb.id)
        assert after.id != before.id
        assert (ask(), stage.ask(lb).member) == ("one", "one")
        assert in_error(stage, lb) == {secured.id}
        # so does the healing of a dead amphora
        os.kill(stage.agent_pid(after.id), signal.SIGKILL)
        until(
            lambda: (
                [a.id for a in control.amphorae(lb.id) if a.status is AmphoraStatus.ALLOCATED] not in ([], [after.id])
            )
        )
        until(lambda: stage.tree(lb.id).provisioning_status is ACTIVE)
        assert (ask(), stage.ask(lb).member) == ("one", "one")
        # mended, its row counts again
        stage.update(Kind.LISTENER, secured.id, tls_ciphers="ECDHE-ECDSA-AES128-GCM-SHA256")
        assert stage.statuses(lb.id) == {ACTIVE}
        assert ask() == "one"


def test_a_listener_whose_secret_vanished_goes_on_and_deleting_needs_no_secret(stage, authority):
    control = stage.controller
    stage.put_secret("vanishing", authority.issue("www.test"))
    with Echo("one") as one, Echo("two") as two:
        lb = stage.build(tls("vanishing", NewPool(name="p", members=behind(one)), name="secured"), http())

        def ask():
            return stage.ask(lb, listener=1, tls=authority.client_context(), name="www.test").member

        assert ask() == "one"
        (stage.state / "secrets" / "vanishing.pem").unlink()
        control.create_member(stage.find(lb.id, "p").id, *behind(two)).wait(PATIENCE)
        assert {ask() for _ in range(6)} == {"one", "two"}
        assert stage.statuses(lb.id) == {ACTIVE}
        kept = [e for e in control.events(load_balancer_id=lb.id) if e.name == "listener.kept"]
        assert "no secret 'vanishing'" in kept[-1].text
        # a new amphora has no files to go on with: that listener is out, and says why; the others serve
        control.failover_load_balancer(lb.id).wait(PATIENCE)
        assert stage.tree(lb.id).provisioning_status is ACTIVE
        assert stage.find(lb.id, "secured").provisioning_status is ERROR
        assert "no secret 'vanishing'" in str(control.why(stage.find(lb.id, "secured").id))
        with pytest.raises(ConnectionRefusedError):
            ask()
        assert stage.ask(lb).status == 503
        # the secret is back: any change brings the listener back, and one about it makes it ACTIVE
        stage.put_secret("vanishing", authority.issue("www.test"))
        stage.update(Kind.LISTENER, stage.find(lb.id, "secured").id, description="mended")
        assert {ask() for _ in range(6)} == {"one", "two"}
        assert stage.statuses(lb.id) == {ACTIVE}
        (stage.state / "secrets" / "vanishing.pem").unlink()
        stage.delete(Kind.LISTENER, stage.find(lb.id, "secured").id)
        stage.drop(lb.id)


def test_a_load_balancer_whose_vip_is_taken_is_undone_and_can_be_deleted(stage):
    """Its address is not one of ours to give, its port is another program's."""
    control = stage.controller
    lb = stage.build(http())
    address = lb.vip.ip_address
    for wish, said in (
        (NewLoadBalancer(vip_address=address), "belongs to load balancer"),
        (NewLoadBalancer(vip_address="8.8.8.8"), "not on this machine's loopback network"),
        (NewLoadBalancer(vip_address="::1"), "IPv6"),
    ):
        operation = control.create_load_balancer(wish)
        with pytest.raises(OperationFailed, match=said):
            operation.wait(PATIENCE)
        assert stage.tree(operation.load_balancer_id).provisioning_status is ERROR
        assert list(control.amphorae(operation.load_balancer_id)) == []
        stage.drop(operation.load_balancer_id)
    assert stage.ask(lb).status == 503
    with socket.socket() as taken:
        taken.bind(("127.77.66.55", 8080))
        taken.listen()
        operation = control.create_load_balancer(NewLoadBalancer(vip_address="127.77.66.55", listeners=[http()]))
        with pytest.raises(OperationFailed, match="8080"):
            operation.wait(PATIENCE)
    # with the cause gone, a rebuild makes it serve
    control.failover_load_balancer(operation.load_balancer_id).wait(PATIENCE)
    rebuilt = stage.tree(operation.load_balancer_id)
    assert stage.statuses(rebuilt.id) == {ACTIVE}
    assert ask_at("127.77.66.55", 8080).status == 503
    assert rebuilt.provisioning_status is ACTIVE
    stage.drop(lb.id, rebuilt.id)
    assert only_pool(lb).id
