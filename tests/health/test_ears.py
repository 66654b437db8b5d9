"""What outlives new settings: a health manager that follows another goes on where that one was."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from octavia_core.controller.health import HealthManager, bind_receiver
from octavia_core.controller.health.ears import Ears
from octavia_core.domain.heartbeat import decode, encode
from octavia_core.domain.secret import Secret
from octavia_core.settings import Database, Settings
from octavia_core.settings import HealthManager as Options
from tests.health.managing import world_of
from tests.health.rig import until
from tests.health.test_managers import Managed

OPTIONS = Options(bind_port=0, heartbeat_key=Secret("key"), heartbeat_interval=1.0, heartbeat_timeout=6.0)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (
            {"heartbeat_key": Secret("new"), "heartbeat_timeout": 9.0, "failover_threshold": 3, "metrics_address": ""},
            True,
        ),
        ({"bind_ip": "127.0.0.2"}, False),
        ({"bind_port": 1}, False),
        ({"sock_rlimit": 65536}, False),
        ({"health_update_threads": 2}, False),
    ],
)
def test_only_what_decides_about_sockets_asks_for_others(change: dict[str, object], same: bool) -> None:
    settings = Settings(health_manager=OPTIONS)
    ears = Ears(settings, bind_receiver(settings), 0)
    try:
        assert ears.fit(settings)
        assert ears.fit(Settings(health_manager=attrs.evolve(OPTIONS, **change))) is same
    finally:
        ears.stop()


def test_paces_follow_the_settings_and_other_rows_are_held_against_what_is_known() -> None:
    settings = Settings(health_manager=OPTIONS)
    ears = Ears(settings, bind_receiver(settings), 0)
    try:
        document = {"id": "a", "seq": 1, "ver": 3, "listeners": {}, "pools": {}}
        ears.memory.keep([decode(encode(document, "key"), ["key"])], 1.0)
        batch = ears.memory.take(1.0, traffic=None)
        ears.memory.written(batch, {"a": True}, 1.0)
        ears.since = 5
        slower = attrs.evolve(OPTIONS, heartbeat_interval=2.0, heartbeat_timeout=20.0)
        ears.renew(Settings(health_manager=slower))
        assert (ears.memory.reapply, ears.memory.trial, ears.pairs.fresh, ears.pairs.patience) == (6.0, 20.0, 6.0, 4.0)
        assert (len(ears.memory.take(2.0, traffic=None)), ears.since) == (0, 5)
        ears.renew(Settings(health_manager=slower, database=Database(connection=Secret("sqlite:///elsewhere.db"))))
        assert (set(ears.memory.take(2.0, traffic=None).beats), ears.since) == ({"a"}, 0)
    finally:
        ears.stop()


def test_the_next_health_manager_knows_all_that_the_one_before_knew(tmp_path: Path) -> None:
    here = Managed(tmp_path, heartbeat_timeout=30.0, health_check_interval=0.1)
    ears = here.health._ears
    slower = attrs.evolve(here.settings.health_manager, heartbeat_timeout=60.0)
    settings = attrs.evolve(here.settings, health_manager=slower)
    world, cloud = world_of(settings)
    try:
        here.beat()
        until(lambda: ears.memory.counters["accepted"] == 6)  # so the end of the first writes it, if it has not yet
        until(lambda: len(here.storage.read(lambda tx: tx.observers())) == 1)
        here.health.stop(keep_ears=True)
        assert not ears.memory._news
        since = ears.since
        here.beat()
        until(lambda: ears.memory.counters["accepted"] == 12)
        here.health = HealthManager(here.storage, settings, world, ears, lambda: None)
        here.health.start()
        here.beat()
        until(lambda: ears.memory.counters["accepted"] == 18)
        assert not ears.memory._news, "its rows have what everybody says"
        assert ears.since == since > 0, "silence goes on counting from where it did"
        (row,) = here.storage.read(lambda tx: tx.observers())
        assert row.name == ears.observer
    finally:
        here.close()
        cloud.close()
