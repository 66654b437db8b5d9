"""What processors did between two moments: for us, for a database server, for others, for nobody.

A rate that was missed explains itself by it: cores that lay idle mean waiting (for locks, for the disk), cores that were
stolen or busy for other programs mean a machine that was not ours. Linux only: it reads /proc (proc_stat(5), proc_pid_stat(5)).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

import attrs

__all__ = ["Meter", "Spent", "descendants"]

TICK = os.sysconf("SC_CLK_TCK")


@attrs.frozen(kw_only=True)
class Spent:
    """Seconds of processors.

    Attributes:
        cores: how many there are.
        seconds: by the clock on the wall.
        ours: this process.
        programs: of each program that was named, with what descends from it.
        busy: of the whole machine, whoever used them.
        idle: of nobody, the wait for disks included.
        stolen: taken by the host of a virtual machine.
    """

    cores: int
    seconds: float
    ours: float
    programs: Mapping[str, float]
    busy: float
    idle: float
    stolen: float

    @property
    def total(self) -> float:
        """What this process and the named programs used."""
        return self.ours + sum(self.programs.values())

    def words(self) -> str:
        """Whose the rest was, in hundredths of the time of all cores."""
        whole = max(self.busy + self.idle + self.stolen, 1e-9)
        others = max(self.busy - self.total, 0.0)
        return f"{100 * others / whole:.0f} % other programs', {100 * self.stolen / whole:.0f} % stolen"

    @property
    def idle_share(self) -> float:
        """Idle time in hundredths."""
        return 100 * self.idle / max(self.busy + self.idle + self.stolen, 1e-9)


class Meter:
    """Begins to count when it is made.

    Args:
        programs: name -> process; its descendants count with it, the dead ones too.
    """

    def __init__(self, programs: Mapping[str, int]) -> None:
        self._programs = dict(programs)
        self._began = self._read()

    def spent(self) -> Spent:
        """From the beginning until now."""
        before, now = self._began, self._read()
        return Spent(
            cores=os.cpu_count() or 1,
            seconds=now.seconds - before.seconds,
            ours=now.ours - before.ours,
            programs={name: now.programs[name] - before.programs[name] for name in self._programs},
            busy=now.busy - before.busy,
            idle=now.idle - before.idle,
            stolen=now.stolen - before.stolen,
        )

    def _read(self) -> Spent:
        words = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
        user, nice, system, idle, iowait, irq, softirq, stolen = (int(word) / TICK for word in words)
        return Spent(
            cores=os.cpu_count() or 1,
            seconds=time.monotonic(),
            ours=time.process_time(),
            programs={
                name: sum(_cpu(each) for each in (pid, *descendants(pid))) for name, pid in self._programs.items()
            },
            busy=user + nice + system + irq + softirq,
            idle=idle + iowait,
            stolen=stolen,
        )


def descendants(pid: int) -> list[int]:
    """Children of a process, and theirs; of each of its threads."""
    found: list[int] = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        for word in listed.read_text(encoding="ascii").split():
            found += [int(word), *descendants(int(word))]
    return found


def _cpu(pid: int) -> float:
    """Of a process and of the children that it has waited for."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):  # it ended a moment ago: its parent counts it
        return 0.0
    fields = text.rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / TICK
