"""What operators, clocks and bad luck do to detection: nobody who lives is failed over, and nobody dead is forgotten."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from octavia_core.controller import governing
from octavia_core.controller.fleet_health import fleet
from octavia_core.controller.health import memory
from octavia_core.controller.worker import Worker
from octavia_core.db.storage import SqlStorage, prepare
from octavia_core.domain.vocabulary import AmphoraStatus
from octavia_core.errors import BadRequest, ConfigurationError, Refused
from octavia_core.flows.runner import Runner
from octavia_core.ports.clock import SystemClock
from octavia_core.ports.hearts import Heard
from octavia_core.settings import Settings
from octavia_core.testing.outages import Shape, generated
from octavia_core.testing.rehearsal import rehearse
from tests.cli.conftest import Admin
from tests.db.values import new_id
from tests.health.managing import settings_of
from tests.health.rig import Rig, until
from tests.health.test_managers import Managed, amphorae

Make = Callable[..., Rig]


class Stepping(SqlStorage):
    """A database whose clock is the test's, and can be set."""

    elapsed: Callable[[], float] | None = None
    begin: int | None = None
    step = 0.0

    def now(self) -> int:
        if self.begin is None:
            self.begin = super().now()
        return self.begin + int(1_000_000 * (self.step + (self.elapsed() if self.elapsed else 0)))


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Make]:
    made: list[Rig] = []

    def make(count: int, **more: Any) -> Rig:
        made.append(Rig(tmp_path, count, storage=Stepping, **more))
        made[0].storage.elapsed = made[0].clock.monotonic  # type: ignore[attr-defined]
        return made[0]

    yield make
    for each in made:
        each.close()


# -- operators ---------------------------------------------------------------------------------------------------------
def test_a_pause_in_the_middle_of_a_storm_stops_it_and_a_resume_finishes_it(rig: Make) -> None:
    here = rig(200)
    servers = {str(amphora.compute_id): "its rack burns" for amphora in here.amphorae}
    paused = threading.Event()
    sent = here.lookout._actor.on_failover

    def operator() -> None:  # some dozens are declared, and somebody sees it
        if not paused.is_set():
            paused.set()
            governing.pause(here.storage, actor="jo", reason="not now")
        sent()

    here.lookout._actor.on_failover = operator
    here.lookout.died_together(servers)
    declared = len(here.failovers())
    assert 0 < declared < 200
    here.pass_(0.3, *here.ids)
    assert len(here.failovers()) == declared
    assert governing.overview(here.storage, here.settings).words is not None
    governing.resume(here.storage, actor="jo")
    here.pass_(0.1, *here.ids)
    assert Counter(here.failovers()) == Counter(here.ids), "each of them once"


def test_of_two_operators_one_pauses_and_the_other_is_told_by_whom(rig: Make) -> None:
    here = rig(1)
    ready, said = threading.Barrier(2), dict[str, str]()

    def operator(name: str, ask: Callable[..., object], **more: str) -> None:
        ready.wait(30)
        try:
            ask(here.storage, actor=name, **more)
            said[name] = ""
        except Refused as refused:
            said[name] = str(refused)

    def both(ask: Callable[..., object], **more: str) -> list[str]:
        said.clear()
        threads = [threading.Thread(target=operator, args=(name, ask), kwargs=more) for name in ("jo", "al")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return sorted(said.values())

    first, second = both(governing.pause, reason="mine")
    assert first == ""
    assert "failovers are paused by" in second
    assert both(governing.resume) == [
        "",
        "failovers are not paused; what the governor holds back by itself goes on by itself",
    ]
    assert (len(here.events("governor.paused")), len(here.events("governor.resumed"))) == (1, 1)


def test_governor_show_without_its_database_is_one_sentence(admin: Admin, tmp_path: Path) -> None:
    conf = tmp_path / "cloud.toml"
    conf.write_text(
        '[database]\nconnection = "mysql+pymysql://octavia:secret-word@127.0.0.1:1/octavia"\nmax_retries = 1\n'
    )
    for words in (("governor", "show"), ("governor", "pause", "--reason", "x"), ("health", "show")):
        said = admin.inside(*words, "--config-file", str(conf), code=1)
        assert said.out == ""
        assert len(said.err.strip().splitlines()) == 1, said.err
        assert "database" in said.err
        assert "secret-word" not in said.err


# -- settings ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("group", "option", "value", "words"),
    [
        ("health_manager", "failover_threshold", 0, "must be at least 1, or absent"),
        ("health_manager", "failover_threshold", -3, "must be at least 1, or absent"),
        ("health_manager", "heartbeat_timeout", 0, "must be more than 0"),
        ("health_manager", "heartbeat_timeout", "nan", "must be a number of seconds"),
        (
            "engine",
            "failovers_per_minute",
            0,
            "must be a number above 0, not 0; to hold all back: octavia-admin governor pause",
        ),
        ("engine", "failovers_per_minute", "inf", "must be a number above 0, 1,000,000 at most, not inf"),
        ("engine", "failovers_per_minute", 1e308, r"1,000,000 at most, not 1e\+308"),
        ("health_manager", "health_check_interval", 1e308, r"from 0 to 315,360,000 \(ten years\), not 1e\+308"),
        ("health_manager", "heartbeat_interval", 1e18, "ten years"),
        ("health_manager", "heartbeat_timeout", "inf", "ten years"),
        ("engine", "event_timeout", 10**400, "must be a number"),
        ("house_keeping", "cert_interval", "1e99", "ten years"),
        ("health_manager", "bind_port", 70000, "must be a number from 0 to 65535, not 70000"),
        ("health_manager", "bind_port", -1, "must be a number from 0 to 65535"),
        ("health_manager", "health_update_threads", -3, "must be a number from 0 to 1024"),
        ("engine", "failover_retry_first", 0.0, "must be more than 0 seconds"),
        ("health_manager", "sock_rlimit", 10**12, "must be a number from 0 to 1073741823"),
        ("haproxy_amphora", "bind_port", 0, "must be a number from 1 to 65535"),
        ("local", "privileged_port_offset", 64513, "must be a number from 0 to 64512"),
        ("health_manager", "controller_ip_port_list", "192.0.2.1:5555, 192.0.2.2", "must be host:port"),
        ("health_manager", "controller_ip_port_list", ["[2001:db8::1]:0"], "there is no port 0"),
        ("health_manager", "metrics_address", "foo", "must be host:port"),
        ("health_manager", "metrics_address", "127.0.0.1:65536", "there is no port 65536"),
        ("amphora_agent", "admin_log_targets", "logs.example.com:" + "9" * 5000, "there is no port 9{20}$"),
        ("amphora_agent", "tenant_log_targets", ":514", "must be host:port"),
        ("health_manager", "failover_threshold", float("inf"), "must be a whole number"),
    ],
)
def test_settings_that_mean_nothing_are_refused_in_a_sentence(
    group: str, option: str, value: object, words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Settings.load(("test", {group: {option: value}}))


@pytest.mark.parametrize(
    ("health", "shape", "words"),
    [
        ({"heartbeat_timeout": 5.0}, {}, r"heartbeat_timeout \(5 s\) must be longer than heartbeat_interval \(10 s\)"),
        ({"health_check_interval": 1e-6}, {}, "give a shorter --duration"),
        ({"heartbeat_interval": 1e-7, "heartbeat_timeout": 1.0}, {}, "give a shorter --duration"),
    ],
)
def test_settings_that_cannot_be_rehearsed_are_refused_in_a_sentence(
    health: dict[str, float], shape: dict[str, Any], words: str
) -> None:
    made = Shape(**shape)
    with pytest.raises(BadRequest, match=words):
        rehearse(Settings.load(("test", {"health_manager": health})), generated("host-dies", made), made)


def test_an_option_of_upstreams_that_has_no_effect_is_named_with_the_one_that_has(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Managed(tmp_path).close()
    assert "failover_threads" not in caplog.text
    (tmp_path / "more").mkdir()
    Managed(tmp_path / "more", failover_threads=4).close()
    assert "[health_manager] failover_threads has no effect" in caplog.text
    assert "[engine] failovers_per_minute bounds how many are started (now " in caplog.text


# -- clocks ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("hours", [1.0, -1.0])
def test_a_database_whose_clock_is_set_costs_nobody_and_the_dead_are_found_after_a_timeout(
    rig: Make, hours: float
) -> None:
    here = rig(10, heartbeat_timeout=60.0, heartbeat_interval=10.0)
    here.mute()
    gone, *others = here.ids

    def turn(ids: list[str], observer: str = "there") -> None:
        """Heard by somebody else, whose rows are all that is known here."""
        now = here.wall.now()
        beats = [Heard(amphora_id=id, at=now, sequence=None, observer=observer) for id in ids]
        here.storage.transaction(lambda tx: tx.heard(beats))
        here.clock.advance(5)
        here.look()

    here.memory.forget_others((), here.clock.monotonic() + 1)
    for _ in range(12):
        turn(here.ids)
    here.storage.step = hours * 3600  # type: ignore[attr-defined]
    for _ in range(12):
        turn(here.ids)
    assert here.failovers() == []
    for number in range(20):
        turn(others)
        if number == 9:
            here.answered(gone)
    assert here.failovers() == [gone]


# -- amphorae ----------------------------------------------------------------------------------------------------------
def test_heartbeats_of_a_deleted_amphora_bring_nothing_back(rig: Make) -> None:
    here = rig(2)
    ghost, well = here.ids
    here.storage.transaction(lambda tx: (tx.forget_health(ghost), _delete(tx, ghost)))
    for _ in range(30):
        here.pass_(0.1, well, ghost)
        here.writer.flush(here.clock)
    hearts = {heart.amphora_id for heart in here.storage.read(lambda tx: tx.liveness())}
    assert hearts == {well}
    assert here.failovers() == []
    assert here.status(ghost) is AmphoraStatus.DELETED


def _delete(tx: Any, amphora_id: str) -> None:
    from octavia_core.lifecycle.amphora import AmphoraEvent

    tx.settle_amphora(amphora_id, AmphoraEvent.DELETE)
    tx.settle_amphora(amphora_id, AmphoraEvent.DELETED)


def test_amphorae_that_somebody_invents_are_counted_where_operators_look_and_hide_nobody(
    rig: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "STRANGERS", 5)
    here = rig(2)
    here.look()
    for _ in range(10):
        here.heard(*here.ids)
        here.memory.keep([here.beat(new_id(), listeners=[]) for _ in range(10)], here.clock.monotonic())
        here.writer.flush(here.clock)
        here.pass_(0.4, *here.ids)
    (shown,) = fleet(here.storage).managers
    assert shown.dropped["too many unknown amphorae"] >= 50, "of a hundred, when it was written last"
    assert (shown.watched, shown.hears) == (2, 2)
    assert len(here.storage.read(lambda tx: tx.liveness())) == 2
    assert here.failovers() == []


def test_two_that_claim_one_name_count_as_one_that_lives(rig: Make) -> None:
    """A copied image, say: sequences and sources differ, and nobody is failed over or counted twice for it."""
    here = rig(2)
    twin, well = here.ids
    for number in range(30):
        here.pass_(0.1, well, twin)
        here.sequence = 1_000_000 - number  # the other one's
        here.heard(twin)
        here.writer.flush(here.clock)
    assert here.failovers() == []
    assert len(here.storage.read(lambda tx: tx.liveness())) == 2


def test_one_that_comes_and_goes_gets_its_settings_once_for_each_silence(rig: Make) -> None:
    here = rig(2)
    flapping, well = here.ids
    for _ in range(3):
        here.pass_(0.8, well)
        here.answered(flapping)
        here.pass_(0.6, well)  # silent for 1.4 timeouts, and its agent answers
        here.pass_(0.3, well, flapping)
        here.writer.flush(here.clock)
    until(lambda: len(here.operations("configure")) == 3)
    assert here.failovers() == []
    assert here.lookout._actor.held == {}


# -- sudden ends -------------------------------------------------------------------------------------------------------
def test_a_health_manager_that_is_killed_in_the_middle_of_deciding_loses_and_doubles_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/octavia.db"
    prepare(settings_of(tmp_path, url))
    storage = SqlStorage.open(settings_of(tmp_path, url))
    made = amphorae(storage, 300)
    lost = [str(each.compute_id) for each in made[:280]]

    def failovers() -> Counter[str | None]:
        return Counter(o.amphora_id for o in storage.read(lambda tx: tx.operations(limit=2000)) if o.flow == "failover")

    def manager(name: str) -> subprocess.Popen[str]:
        (tmp_path / name).mkdir()
        command = [sys.executable, "-m", "tests.health.managing", str(tmp_path / name), url]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    try:
        for name in ("first", "second"):
            process = manager(name)
            try:
                assert process.stdin is not None
                process.stdin.write(" ".join(lost) + "\n")
                process.stdin.flush()
                before = sum(failovers().values())
                done = process.stdout  # it may be quicker than we look: then it has decided about all of them
                while sum(failovers().values()) == before and not select.select([done], [], [], 0.001)[0]:
                    pass
            finally:
                os.kill(process.pid, signal.SIGKILL)
                process.communicate()
        last = manager("last")
        said, _ = last.communicate(" ".join(lost) + "\n", timeout=100)
        assert said == "done\n"
        assert failovers() == Counter(each.id for each in made[:280])
        assert len(fleet(storage).amphorae) == 1
    finally:
        storage.close()


# -- nobody waits ------------------------------------------------------------------------------------------------------
def test_a_replacement_that_never_boots_holds_nobody_up(tmp_path: Path) -> None:
    here = Rig(tmp_path, 12, clock=SystemClock(), engine={"failovers_per_minute": 60_000})
    booted: list[str] = []

    def before(call: str) -> None:  # the first server takes an hour
        if call == "compute.boot":
            here.cloud.boot_seconds = 0.0 if booted else 3600.0
            booted.append(call)

    def waits(id: str) -> bool:
        found = here.storage.read(lambda tx: tx.operation(id))
        return found is not None and found.wait is not None

    worker = Worker(Runner(here.storage, here.world), threads=1)
    try:
        here.cloud.before = before
        here.lookout.died_together({str(amphora.compute_id): "its rack burns" for amphora in here.amphorae})
        worker.start()
        until(lambda: sum(one.state.final for one in here.operations("failover")) == 11)
        (slow,) = [one for one in here.operations("failover") if not one.state.final]
        until(lambda: waits(slow.id))  # it takes no thread, but for moments in which it is looked whether it has booted
    finally:
        worker.stop(10)
        here.close()
