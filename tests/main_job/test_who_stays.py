"""Clients keep their member, whatever becomes of the HAProxy that has put them there."""

from __future__ import annotations

from pathlib import Path

from octavia_core.domain.tree import LoadBalancer, SessionPersistence
from octavia_core.domain.vocabulary import PersistenceType
from tests.main_job.stage import PATIENCE, Stage, behind, http, open_stage, until
from tests.support.calm import CALM
from tests.support.running import Echo

SOURCES = [f"127.9.6.{n}" for n in range(1, 9)]


def kept(type: str, cookie: str | None = None) -> dict[str, object]:
    return {"session_persistence": SessionPersistence(type=PersistenceType(type), cookie_name=cookie)}


def stay(stage: Stage, lb: LoadBalancer, members: dict[str, str], cookies: dict[str, str]) -> bool:
    """Whether all of them are where they were. Those of one member come together: nothing but memory keeps them apart."""
    sources = sorted(members, key=lambda source: (members[source] != "two", source))
    by_source = [stage.ask(lb, source=source).member == members[source] for source in sources]
    by_cookie = [
        stage.ask(lb, listener=1, headers=[("Cookie", cookies[name])]).member == name
        for name in ("two", "two", "one", "one")
    ]
    return all(by_source) and all(by_cookie)


def test_clients_stay_with_their_member_over_reloads_in_a_row_and_failovers_with_a_reload_each(tmp_path: Path) -> None:
    with open_stage(tmp_path / "state", CALM) as stage, Echo("one") as one, Echo("two") as two:
        servers = behind(one, two)
        lb = stage.build(
            http(*servers, pool=kept("SOURCE_IP")), http(*servers, port=8081, pool=kept("APP_COOKIE", "APP"))
        )
        members = {source: stage.ask(lb, source=source).member for source in SOURCES}
        assert set(members.values()) == {"one", "two"}
        answers = [stage.ask(lb, listener=1) for _ in range(2)]
        cookies = {answer.member: answer.headers["set-cookie"].partition(";")[0] for answer in answers}
        assert set(cookies) == {"one", "two"}
        known = stage.remembered(lb)
        assert known == len(members) + len(cookies)

        def told() -> bool:
            return stage.remembered(lb) == known

        for port in (8082, 8083):
            stage.controller.create_listener(lb.id, http(port=port)).wait(PATIENCE)
            until(told, "what the one before knew")
            assert stay(stage, lb, members, cookies)
        for port in (8084, 8085):
            (before,) = stage.controller.amphorae(lb.id)
            stage.controller.failover_load_balancer(lb.id).wait(PATIENCE)
            (after,) = stage.controller.amphorae(lb.id)
            assert before.id != after.id
            until(told, "what the old one tells it with its last breath")
            assert stay(stage, lb, members, cookies)
            stage.controller.create_listener(lb.id, http(port=port)).wait(PATIENCE)
            until(told, "what the one before knew")
            assert stay(stage, lb, members, cookies)
