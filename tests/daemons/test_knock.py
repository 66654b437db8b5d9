"""A knock wakes the process that looks for work; without one it looks at its own pace."""

from __future__ import annotations

import os
import pwd
import select
import subprocess
import sys
import threading
import uuid

import pytest

from octavia_core.controller import supervisor
from octavia_core.controller.knock import Door, Knocker
from octavia_core.domain.secret import Secret
from octavia_core.settings import Database, Settings


def settings(password: str = "word", name: str | None = None) -> Settings:
    url = f"mysql+pymysql://user:{password}@localhost/{name or uuid.uuid4().hex}"
    return Settings(database=Database(connection=Secret(url)))


def waits(door: Door) -> bool:
    return bool(select.select([door], [], [], 0)[0])


def test_a_knock_is_heard_by_whoever_works_on_the_same_database() -> None:
    here = settings()
    door, other = Door(here), Door(settings())
    try:
        assert not door.heard()
        for _ in range(3):
            Knocker(here)()
        assert waits(door)
        assert door.heard()
        assert not waits(door)
        assert not other.heard()
    finally:
        door.close()
        other.close()


def test_the_name_does_not_depend_on_the_password() -> None:
    name = uuid.uuid4().hex
    door = Door(settings("one", name))
    try:
        Knocker(settings("another", name))()
        assert door.heard()
    finally:
        door.close()


def test_nobody_there_and_a_second_door_are_no_trouble() -> None:
    here = settings()
    Knocker(here)()
    first, second = Door(here), Door(here)
    try:
        assert second.fileno() == -1
        assert not second.heard()
        Knocker(here)()
        assert first.heard()
    finally:
        first.close()
        second.close()
        second.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_knock_of_another_user_does_not_count() -> None:
    here = settings()
    door = Door(here)
    try:
        name = door._socket.getsockname()
        stranger = pwd.getpwnam("nobody").pw_uid
        knock = (
            f"import os, socket; os.setuid({stranger})\n"
            f"socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'!', bytes({list(name)}))"
        )
        subprocess.run([sys.executable, "-S", "-W", "ignore", "-c", knock], check=True)
        assert waits(door)
        assert not door.heard()
    finally:
        door.close()


def test_a_supervisor_looks_at_once_when_somebody_knocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "TICK", 3600.0)
    here = settings()
    door, looked, stop = Door(here), threading.Semaphore(0), threading.Event()

    def look() -> float | None:
        looked.release()
        return None

    program = supervisor.Program(command=["/bin/cat"], environment=lambda _: {}, grace=10.0)
    keeper = supervisor.Supervisor(program, count=1, look=look, poll=3600.0, door=door)
    thread = threading.Thread(target=keeper.run, args=(stop,))
    thread.start()
    try:
        assert looked.acquire(timeout=20)
        Knocker(here)()
        assert looked.acquire(timeout=20)
    finally:
        stop.set()
        Knocker(here)()
        thread.join(20)
        door.close()
    assert not thread.is_alive()
