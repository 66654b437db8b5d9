"""Help that helps: examples that are command lines, brackets that are not swallowed, settings told once for all."""

from __future__ import annotations

import shlex

import pytest
import typer

from octavia_core.cli.command import plain
from octavia_core.cli.commands.simulate import SCENARIOS as OFFERED
from octavia_core.cli.examples import EXAMPLES
from octavia_core.cli.exits import Exit
from octavia_core.cli.program import build, run
from octavia_core.cli.reference import every_command, page
from octavia_core.testing.outages import SCENARIOS

COMMANDS = {" ".join(words): command for words, command in every_command().items()}


def test_every_command_has_an_example_and_no_example_is_of_another_command() -> None:
    assert set(EXAMPLES) == set(COMMANDS)
    for words, lines in EXAMPLES.items():
        assert lines
        assert all(line == words or line.startswith(f"{words} ") for line in lines)


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_an_example_can_be_typed(line: str) -> None:
    command, words = typer.main.get_command(build()), shlex.split(line)
    while children := getattr(command, "commands", None):
        command = children[words.pop(0)]
    command.make_context("example", words)  # raises what a person would be told


def test_examples_stand_below_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["member", "create", "--help"]) == 0
    assert "octavia-admin member create web 10.0.0.3:80 --weight 5" in capsys.readouterr().out


@pytest.mark.parametrize("words", ["config authorities", "heartbeat-key rotate"])
def test_a_group_of_the_settings_is_not_swallowed_as_a_style(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    group = "[certificates]" if words.startswith("config") else "[health_manager]"
    assert run([*words.split(), "--help"]) == 0
    assert group in capsys.readouterr().out
    assert group in plain(COMMANDS[words].help)
    assert f"\\{group}" not in page()


def test_the_scenarios_that_are_offered_are_those_there_are() -> None:
    assert set(OFFERED) == set(SCENARIOS)


def test_an_option_of_a_commands_own_is_on_the_page() -> None:
    down = page().partition("## `octavia-admin down`")[2].partition("\n## ")[0]
    assert "`--timeout SECONDS`" in down


def test_the_settings_of_a_cloud_may_stand_before_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    for line in (
        ["--config-file", "/absent/octavia.toml", "why", "web"],
        ["why", "web", "--config-file", "/absent/octavia.toml"],
    ):
        assert run(line) == Exit.CONFIGURATION
        assert "/absent/octavia.toml" in capsys.readouterr().err


def test_a_command_for_a_state_directory_does_not_pass_over_the_settings_of_a_cloud(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["--config-file", "/absent/octavia.toml", "up"]) == Exit.BAD_REQUEST
    assert "octavia-admin up works on a state directory, and takes no --config-file" in capsys.readouterr().err
