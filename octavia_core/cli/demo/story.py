"""The demo: plays the acts, clears up whatever happened, and says what held."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator

import attrs

from octavia_core.cli.demo.acts import ACTS, deleted
from octavia_core.cli.demo.place import agent_pid
from octavia_core.cli.demo.stage import NAME, NotHeld, Result, Stage
from octavia_core.cli.session import Session
from octavia_core.controller.signals import on_signals
from octavia_core.errors import BadRequest, OctaviaError

__all__ = ["tell"]


def tell(session: Session, *, keep: bool) -> bool:
    """Play it; True when all of it held."""
    begun = time.monotonic()
    with _state(session) as state:
        stage = Stage(state, session)
        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            _play(stage, keep=keep)
        finally:
            stage.clear()
            signal.signal(signal.SIGTERM, before)
    result = stage.result
    result.seconds = round(time.monotonic() - begun, 1)
    _summary(session, result)
    if session.json:
        session.screen.line(attrs.asdict(result))
    return not result.problems


def _interrupt(number: int, frame: object) -> None:
    """SIGTERM ends the demo as Ctrl-C does: cleared up."""
    raise KeyboardInterrupt


@contextlib.contextmanager
def _state(session: Session) -> Iterator[str]:
    """A directory for the demo: a temporary one, or the one that was asked for, which must be new or empty."""
    if session.state is None:
        folder = tempfile.mkdtemp(prefix="octavia-demo-")
        try:
            yield os.path.join(os.path.realpath(folder), "state")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return
    if os.path.isdir(session.path) and os.listdir(session.path):
        raise BadRequest(f"{session.path} is not empty; the demo needs a state directory of its own")
    yield os.path.realpath(session.path)


def _play(stage: Stage, *, keep: bool) -> None:
    """Act after act; the first that does not hold ends the story (it is cleared up all the same)."""
    try:
        for title, key, act in ACTS:
            stage.show.act(title)
            stage.show.over(act(stage), held=True)
            if key:
                stage.note_statuses(key)
            stage.show.beat()
        if keep:
            _stay(stage)
        stage.show.act("The load balancer is deleted")
        stage.show.over(deleted(stage), held=True)
    except (NotHeld, OctaviaError, RuntimeError, OSError) as error:
        stage.result.problems.append(str(error))
        stage.show.over(str(error), held=False)
    except KeyboardInterrupt:
        stage.result.problems.append("interrupted")
        stage.show.over("interrupted", held=False)


def _stay(stage: Stage) -> None:
    """--keep: everything runs until Ctrl-C; say what to try."""
    client = stage.client
    amphora = client.amphorae(client.load_balancer(NAME).id)[0]
    say = stage.session.screen.note
    stage.show.close()
    plain, secure = stage.places
    ended = threading.Event()
    lines = (
        "",
        "It goes on running, with its traffic, until Ctrl-C. In another terminal:",
        f"  export OCTAVIA_STATE={stage.state}",
        f"  octavia-admin lb show {NAME}",
        f"  octavia-admin why {NAME}",
        f"  octavia-admin timeline {NAME}",
        "  octavia-admin events --follow",
        f"  octavia-admin member set 127.0.0.1:{stage.members['member-1'].port} --weight 0",
        f"  kill -9 {agent_pid(stage.state, amphora.id)}   # the amphora",
        f"  curl {plain}/",
        f"  curl -k {secure}/",
        "",
    )
    with on_signals(dict.fromkeys((signal.SIGINT, signal.SIGTERM), ended.set)):
        for line in lines:
            say(line)
        while not ended.wait(1.0):  # a signal that came just before it fell asleep is seen when it wakes up
            pass
    stage.show = stage.new_show()


def _summary(session: Session, result: Result) -> None:
    say = session.screen.note if session.json else session.screen.say
    traffic, failover = result.traffic, result.failover
    say("")
    say(f"{traffic['sent']} requests in {result.seconds:g} s, {traffic['failed']} failed")
    if failover["restored_ms"] is not None:
        say(
            f"amphora killed: seen after {failover['detected_ms']} ms, served again after {failover['restored_ms']} ms, "
            f"{failover['failed_requests']} request(s) failed"
        )
    if result.resume["status"]:
        say(f"controller killed in a push: resumed in {result.resume['seconds']} s, {result.resume['status']}")
    if result.problems:
        say(f"Not held: {'; '.join(result.problems)}")
    else:
        say("left behind: nothing")
        say("all of it held")
