"""`octavia-admin simulate`: the operator's own settings against an outage, in virtual time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from octavia_core.cli.command import command
from octavia_core.cli.completion import one_of
from octavia_core.cli.exits import Exit
from octavia_core.cli.fields import Field
from octavia_core.cli.session import Session
from octavia_core.errors import BadRequest

if TYPE_CHECKING:
    from octavia_core.testing.rehearsal import Entry, Report

__all__ = ["SCENARIOS", "add"]

SCENARIOS = (
    "host-dies",
    "zone-dies",
    "receiver-deaf",
    "partition",
    "database-away",
    "slow-heartbeats",
    "everything-silent",
)
"""As `octavia_core.testing.outages` has them, which is loaded only when it is used; a test compares."""
Scenario = Annotated[
    str | None,
    typer.Argument(
        metavar="[SCENARIO]",
        help=f"{', '.join(SCENARIOS[:-1])} or {SCENARIOS[-1]}.",
        autocompletion=one_of(*SCENARIOS),
    ),
]
FromEvents = Annotated[
    str | None,
    typer.Option("--from-events", metavar="FILE", help="A recorded outage: what `events --json` wrote; - is stdin."),
]
_SHAPE = (
    Field("amphorae", int, "--amphorae", "How many there are; 1000 without.", "NUMBER"),
    Field("hosts", int, "--hosts", "Hosts that they are spread over; 20 without.", "NUMBER"),
    Field("zones", int, "--zones", "Zones that the hosts are spread over; 3 without.", "NUMBER"),
    Field("receivers", int, "--receivers", "Health managers that listen; 3 without.", "NUMBER"),
    Field("duration", float, "--duration", "Virtual time in all; 1200 without.", "SECONDS"),
    Field("begin", float, "--begin", "When the outage begins; 120 without.", "SECONDS"),
    Field("lasts", float, "--lasts", "How long an outage lasts that ends by itself; 600 without.", "SECONDS"),
    Field("share", float, "--share", "Share of the hosts that a partition cuts off; 0.5 without.", "0..1"),
    Field("slow", int, "--slow", "How much longer pauses between slow heartbeats are; 10 without.", "TIMES"),
    Field("boot", float, "--boot", "Until a replacement serves; 60 without.", "SECONDS"),
    Field("proof", bool, "--proof/--no-proof", "Compute says of what died that it did; it does not without."),
)


def add(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "simulate", fields=_SHAPE, cloud=True)(simulate)


def simulate(
    session: Session,
    values: Mapping[str, Any],
    scenario: Scenario = None,
    from_events: FromEvents = None,
) -> None:
    """Rehearse an outage with your own settings: what would the governor do? Nothing real is touched.

    Exit code 0 means that no healthy amphora was failed over, 1 that some were.
    """
    from octavia_core.domain.codec import to_json
    from octavia_core.testing.outages import Shape, generated, recorded
    from octavia_core.testing.rehearsal import rehearse

    if scenario is not None and from_events is not None:
        raise BadRequest(f"give either a scenario or --from-events, not both: {scenario} and {from_events}")
    if scenario is None and from_events is None:
        raise BadRequest(f"name a scenario ({', '.join(SCENARIOS)}), or give a recorded outage with --from-events")
    shape = Shape(**values)
    settings = _settings(session)
    if from_events is not None:
        lines = _lines(from_events)
        outage = recorded(lines, shape, settings.health_manager.heartbeat_timeout)
    else:
        outage = generated(str(scenario), shape)
    report = rehearse(settings, outage, shape, scenario=scenario or "recorded")
    if session.json:
        session.screen.data(to_json(report))
    else:
        _show(session, report)
    if report.wrong:
        raise typer.Exit(Exit.FAILED)


def _settings(session: Session) -> Any:
    """The operator's; upstream's defaults where there is no state directory and no file."""
    from octavia_core.controller.sources import load_settings
    from octavia_core.controller.state import prepare_state
    from octavia_core.settings import Settings

    if session.config_files:
        return load_settings(session.config_files)
    if os.path.exists(os.path.join(session.path, "state.json")):
        return prepare_state(session.path).settings()
    if session.state is not None:
        session.existing()
    session.screen.note(
        "there is no state directory, so these are the default settings; name yours: --config-file FILE"
    )
    return Settings()


def _lines(path: str) -> list[str]:
    import sys

    try:
        if path == "-":
            return sys.stdin.read().splitlines()
        with open(path, encoding="utf-8") as file:
            return file.read().splitlines()
    except UnicodeDecodeError:
        raise BadRequest(f"{path} is not UTF-8 text; write events with: octavia-admin events --json") from None
    except OSError as error:
        raise BadRequest(f"cannot read {path}: {error.strerror}") from None


def _show(session: Session, report: Report) -> None:
    from rich.text import Text

    screen = session.screen
    screen.say(f"{report.scenario}: {report.words}; {report.amphorae} amphorae, {report.duration:g} s of virtual time")
    rows = [(_span(one), one.act, one.rule, _many(one), one.evidence) for one in report.timeline]
    screen.table(
        ("from s to s", "amphorae are", "rule", "how many", "evidence of the first"), rows, empty="nobody was silent"
    )
    style = "bold red" if report.wrong else "green"
    screen.say(Text(f"failovers of healthy amphorae: {report.wrong}", style=style))
    screen.say(f"failovers: {report.failed_over}; dead amphorae: {report.dead}, not replaced: {report.unreplaced}")
    if report.last_started is not None:
        served = (
            "no replacement served before the end"
            if report.last_rebuilt is None
            else f"the last replacement that served before the end did at {report.last_rebuilt:g} s"
        )
        screen.say(f"after the outage began, the last failover started at {report.last_started:g} s, and {served}")


def _span(entry: Entry) -> str:
    return f"{entry.begin:g}" if entry.begin == entry.end else f"{entry.begin:g} - {entry.end:g}"


def _many(entry: Entry) -> str:
    return f"{entry.amphorae} ({entry.wrong} healthy)" if entry.wrong else str(entry.amphorae)
