"""A process that receives and verifies heartbeats, and hands what they say to the health manager that started it.

It has one thread, since a thread that computes beside it would cost it up to 5 ms per system call. What it learns goes to
standard output in frames (`frames`). Lines of standard input say what to do: the first with which socket, all of them with which
keys; the end of that input ends it. While the health manager is busy, reports wait here, one per amphora: the newest with the
counters of all (`waiting`).

Now and then it says nothing in an empty frame, so that one that stands still is told from one that hears nobody.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice, repeat
from typing import Any

from octavia_core.controller.health.frames import Again, frame
from octavia_core.controller.health.frozen import Frozen
from octavia_core.controller.health.order import ENTRY, GAUGE, KEPT, LATE, has_traffic
from octavia_core.controller.health.receive import PATIENCE, Receiver
from octavia_core.controller.health.waiting import Late, News, sums
from octavia_core.domain.heartbeat import BadPacket
from octavia_core.domain.skim import FIELDS, Sheet, Skimmed, Skimmer

__all__ = ["main"]

SOONEST = 0.05
"""Seconds between two frames at least; what is new is not kept back for longer."""
MOST = 4000
"""Reports of one frame at most: some hundred thousand bytes more and more would only wait in a pipe."""
SIZE = 8 * 1024 * 1024
"""Bytes of reports with new words in one frame, about: likewise."""
ROOM = 128 * 1024 * 1024
"""Bytes of them that wait at most; whoever has the key may send as many and as large ones as he likes."""
WORDINGS = 4
"""Reports of one amphora that wait at most, each with other listeners than the others."""
NOTED = 2 * LATE
"""Heartbeats of each amphora that are recognised: all that are less than `LATE` back, in whatever order they come."""
FEW = 64
"""Datagrams: after a batch of less,"""
GATHER = 0.003
"""seconds are let pass, so that the next is larger: waking up costs as much as some heartbeats do."""
PIPE = 1024 * 1024
"""Bytes that the pipe should hold; the kernel gives as much to a process without privileges."""
F_SETPIPE_SZ = 1031
PR_SET_PDEATHSIG = 1
"""Linux, linux/prctl.h: the signal that comes when the thread ends that started this process."""
FREEZE = 3.0
"""Seconds between two times that the garbage collector is asked to look through what came since."""
SAY = 1.0
"""Seconds without news after which an empty frame says that it lives."""


class Front:
    """The loop of one process.

    Args:
        bound: the socket.
        keys: all that are valid at first.
        out: where frames are written.
        until: the descriptor that further orders come from, whose end is the end; None for none.
        say: seconds without news after which it says that it lives.

    Attributes:
        room: bytes of reports with new words that wait at most; what comes then is left out and counted as `waiting.NO_ROOM`.
    """

    def __init__(
        self, bound: socket.socket, keys: Sequence[str | bytes], out: int, until: int | None = None, say: float = SAY
    ) -> None:
        self._receiver, self._skimmer, self._out = Receiver(bound, wake=until), Skimmer(keys), out
        self._until, self._say, self.room = until, say, ROOM
        self._again: dict[int, Again] = {}
        """What says nothing new, by handle: it has the words that the health manager was told last."""
        self._back: dict[int, Again] = {}
        """The same where a number is not above all before: it is never joined to one that is, since it may be played back."""
        self._late = Late(KEPT)
        """What is less than `LATE` below and was not heard: the network may have turned two round. Each goes on by itself, before
        all that is newer and not told yet, and memory, which knows the numbers, tells what it is.
        """
        self._news = News(WORDINGS)
        """What says something new; what says the same after it is joined to it."""
        self._old_news = News(LATE, apart=True)
        """The same where a number is not above all before."""
        self._refused: Counter[str] = Counter()
        self._oldest, self._sent_at = 0.0, float("-inf")
        self._rest = memoryview(b"")

    def run(self, frozen: Frozen | None = None) -> None:
        """To the end. `frozen`: spares the garbage collector of this process what is remembered of amphorae."""
        end, frozen_at = select.poll(), time.monotonic()
        if self._until is not None:
            end.register(self._until, select.POLLIN | select.POLLHUP)
        over = False
        while not over:
            packets = self._receiver.batch(SOONEST if self._waiting() or self._rest else min(PATIENCE, self._say))
            while not over and end.poll(0):  # all that was ordered before a datagram was sent counts for it
                over = not self._obeys_further()
            self._take(packets)
            self._hand_on()
            if frozen is not None and time.monotonic() - frozen_at > FREEZE:
                frozen.tick()
                frozen_at = time.monotonic()
            if 0 < len(packets) < FEW:
                time.sleep(GATHER)
        os.set_blocking(self._out, True)
        while self._waiting() or self._rest:
            self._sent_at = 0.0
            self._hand_on()

    def obey(self, orders: Mapping[str, Any]) -> None:
        """Work with these keys (number and hexadecimal digits of each) and this pace from now on; nothing that waits is lost."""
        self._skimmer.accept({number: bytes.fromhex(key) for number, key in orders["keys"]})
        self._say = orders["say"]

    def _obeys_further(self) -> bool:
        """Whether there was a further line; False at the end."""
        assert self._until is not None
        line = _line(self._until)
        if line.endswith(b"\n"):
            self.obey(json.loads(line))
            return True
        return False

    def _waiting(self) -> bool:
        return bool(self._again or self._back or self._news or self._old_news or self._late)

    def _take(self, packets: list[bytes]) -> None:
        if not packets:
            return
        if not self._waiting():
            self._oldest = self._receiver.oldest
        times = chain(self._receiver.late, repeat(time.monotonic()))
        read, news, old_news = self._skimmer.read, self._news, self._old_news
        for now, packet in zip(times, packets, strict=False):
            try:
                said = read(packet)
            except BadPacket as bad:
                self._refused[str(bad.reason)] += 1
                continue
            if isinstance(said, Skimmed):
                self._tell(said, now)
                continue
            sheet, seq, counters, mark, key, body = said
            above, late = seq > sheet.top, 0 < sheet.top - seq < LATE and mark[-ENTRY:] not in sheet.marks
            counters = self._new(sheet, seq, mark, counters)
            if not above and self._late and self._late.has(sheet.handle, seq):
                self._refused["repeated"] += 1
                continue
            if late:
                whole = Skimmed(sheet.amphora_id, seq, sheet.words, counters, body, None, True, mark, key)
                if self._late.wait(sheet.handle, now, whole, SIZE):
                    continue
            record = Again(sheet.handle, now, seq, key, mark, counters)
            waiting = self._again if above else self._back
            if (news or old_news) and self._join_news(sheet, record, above):
                continue
            if record.handle in waiting:
                self._join(waiting, record)
            else:
                waiting[record.handle] = record

    def _new(self, sheet: Sheet, seq: int, mark: bytes, counters: tuple[int, ...]) -> tuple[int, ...]:
        """Its counters; only the gauges where it was heard lately: what it is joined to has its traffic. It is noted."""
        entry = mark[-ENTRY:]
        if seq > sheet.top:
            sheet.top = seq
            if self._back.pop(sheet.handle, None) is not None:
                self._refused["replayed"] += 1  # what waits stepped back, and the process before it goes on
        elif entry in sheet.marks:
            if has_traffic(counters):
                return tuple(number if place % FIELDS == GAUGE else 0 for place, number in enumerate(counters))
            return counters
        sheet.marks = (sheet.marks + entry)[-ENTRY * NOTED :]
        return counters

    def _tell(self, said: Skimmed, now: float) -> None:
        """It has other words than the one before, or its words cannot be remembered."""
        sheet = self._skimmer.sheet(said.amphora_id)
        above = sheet is None or said.seq is None or said.seq > sheet.top
        if sheet is not None and said.seq is not None:
            seq = said.seq
            late = 0 < sheet.top - seq < LATE and said.mark[-ENTRY:] not in sheet.marks
            said = said._replace(counters=self._new(sheet, seq, said.mark, said.counters))
            repeated = self._late.has(sheet.handle, seq)
            if repeated or (late and self._late.wait(sheet.handle, now, said._replace(handle=-1), SIZE)):
                self._refused["repeated"] += repeated
                self._skimmer.doubt(said.amphora_id)  # its handle means the words that were told with it, not these
                return
        if above and self._old_news and self._old_news.remove(said.amphora_id, said.words):
            self._refused["replayed"] += 1
        self._wait(self._news if above else self._old_news, said, now)

    def _wait(self, news: News, said: Skimmed, now: float) -> None:
        """A report with all of it. What is left out is counted; the next one of an amphora whose newest words do not wait is read whole,
        since otherwise it would be taken for one with those that were told last.
        """
        left = news.join(now, said, self.room - self._news.size - self._old_news.size)
        if left is not None:
            self._refused[left] += 1
            if news.find(said.amphora_id, said.words) is None:
                self._skimmer.doubt(said.amphora_id)

    def _join(self, waiting: dict[int, Again], said: Again) -> None:
        """To one that says nothing new either."""
        before = waiting[said.handle]
        if said.seq <= before.seq:  # a repeat must not take the place of a newer one
            self._refused["repeated"] += 1
        else:
            waiting[said.handle] = said._replace(counters=sums(before.counters, said.counters))

    def _join_news(self, sheet: Sheet, said: Again, above: bool) -> bool:
        """To the report of the same words that waits; False when there is none."""
        news, others = (self._news, self._old_news) if above else (self._old_news, self._news)
        joined = news.again(sheet, said)
        if joined is False:
            self._refused["repeated"] += 1
        elif joined is None:
            found = others.find(sheet.amphora_id, sheet.words)
            if found is None:
                return False
            whole = found._replace(seq=said.seq, counters=tuple(said.counters), mark=said.mark, key=said.key)
            self._wait(news, whole, said.at)
        if above and others and others.remove(sheet.amphora_id, sheet.words):
            self._refused["replayed"] += 1  # it stepped back, and the process before it goes on
        return True

    def _hand_on(self) -> None:
        now = time.monotonic()
        if not self._rest and now - self._sent_at >= SOONEST:
            if self._waiting() or self._refused:
                self._rest, self._sent_at = memoryview(self._frame()), now
                self._refused.clear()
            elif now - self._sent_at >= self._say:
                self._rest, self._sent_at = memoryview(frame(0.0, {}, ())), now
        while self._rest:
            try:
                self._rest = self._rest[os.write(self._out, self._rest) :]
            except BlockingIOError:
                return  # it is busy; the socket is read on

    def _frame(self) -> bytes:
        """What is to be said next. News mean nothing new for what came before them, so they wait until all that is told. What is late
        comes before what is newer, in a frame of its own where that is none of the news, since in a frame they come last.
        """
        again = [self._again.pop(handle) for handle in list(islice(self._again, MOST))]
        first = self._late.before((each.handle, each.seq) for each in again) if self._late else []
        if not self._again:
            again += [self._back.pop(handle) for handle in list(islice(self._back, MOST - len(again)))]
        news: list[tuple[float, Skimmed]] = []
        forgotten: list[int] = []
        if not self._again and not self._back:
            for source in (self._news, self._old_news):
                news += source.take(MOST - len(again) - len(news), SIZE)
            news = [(at, self._with_handle(said)) for at, said in self._with_late(news)]
            if not self._news and not self._old_news:
                news += self._late.take()
                forgotten, self._skimmer.forgotten = self._skimmer.forgotten, []
        told_first = frame(0.0, {}, (), first) if first else b""
        return told_first + frame(self._oldest, self._refused, again, news, forgotten)

    def _with_late(self, news: list[tuple[float, Skimmed]]) -> Iterator[tuple[float, Skimmed]]:
        for at, said in news:
            if self._late and said.seq is not None:
                yield from self._late.before([(said.handle, said.seq)])
            yield at, said

    def _with_handle(self, said: Skimmed) -> Skimmed:
        """A report is what its handle stands for only where its words are those that were read last: others may wait with it, and
        what says nothing new from here on means those.
        """
        if said.handle < 0:
            return said
        sheet = self._skimmer.sheet(said.amphora_id)
        handle = sheet.handle if sheet is not None and sheet.words == said.words else -1
        return said if handle == said.handle else said._replace(handle=handle)


def _line(descriptor: int) -> bytes:
    """The first line, and nothing of what follows it."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(descriptor, 1)):
        line += byte
    return line


def _end_with_parent() -> None:
    """One that is stopped does not notice the end of its input."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def main() -> int:
    """Read what to do, and do it until standard input ends.

    Returns:
        The exit code.
    """
    # A terminal and systemd send these to everybody; its health manager ends it, when all is read.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _end_with_parent()
    orders = json.loads(_line(0))
    os.set_blocking(1, False)
    try:
        import fcntl

        fcntl.fcntl(1, F_SETPIPE_SZ, PIPE)
    except OSError:
        pass  # what the pipe holds by itself will do
    with socket.socket(fileno=orders["socket"]) as bound:
        try:
            front = Front(bound, (), 1, 0)
            front.obey(orders)
            front.run(Frozen())
        except BrokenPipeError:
            return 0  # the health manager is gone
    return 0


if __name__ == "__main__":
    sys.exit(main())
