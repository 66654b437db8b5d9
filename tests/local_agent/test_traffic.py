"""A configuration that was pushed serves; changing it loses nothing."""

from __future__ import annotations

from tests.local_agent.rig import Member, Rig, Server, config, get


def test_a_pushed_configuration_serves_all_members(rig: Rig, members: tuple[Member, Member]) -> None:
    servers = [Server(member.name, member.port) for member in members]
    answer = rig.push(config(rig, servers))
    assert (answer.status, answer.json) == (
        202,
        {"message": "OK", "details": f"Configuration file is valid\nhaproxy daemon for {rig.lb} started"},
    )
    assert {get(rig.vip) for _ in range(8)} == {"one", "two"}
