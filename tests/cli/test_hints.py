"""Commands that sentences advise can be typed as they are: with the options that the caller gave."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from octavia_core.certs.authority import create_authorities
from octavia_core.cli.hints import CLOUD, GROUPS, SINGLE, repeated
from octavia_core.cli.program import build, run
from octavia_core.controller.sources import load_settings
from octavia_core.db.storage import prepare


def test_known_words_are_those_of_the_command() -> None:
    app = typer.main.get_command(build())
    options = {}
    for name, command in app.commands.items():  # type: ignore[attr-defined]
        for words, one in (
            [(f"{name} {n}", c) for n, c in command.commands.items()]
            if hasattr(command, "commands")
            else [(name, command)]
        ):
            options[words] = {option for parameter in one.params for option in parameter.opts}
    assert {words.split()[0] for words in options if " " in words} >= set(GROUPS)
    assert set(SINGLE) <= set(options)
    takes = {words for words, given in options.items() if "--config-file" in given}
    assert takes == set(CLOUD)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("run: octavia-admin db upgrade", "run: octavia-admin db upgrade --config-file 'a b.toml' --state /s"),
        ("octavia-admin why ID; then wait", "octavia-admin why --config-file 'a b.toml' --state /s ID; then wait"),
        ("start one: octavia-admin up", "start one: octavia-admin up --state /s"),
        ("octavia-admin down, lb create", "octavia-admin down --state /s, lb create"),
        ("use octavia-admin beside it", "use octavia-admin beside it"),
    ],
)
def test_options_are_repeated_where_they_are_taken(text: str, said: str) -> None:
    assert repeated(text, state="/s", config_files=["a b.toml"]) == said
    assert repeated(text, state=None, config_files=()) == text


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """Settings of local drivers, which want a state directory to do anything."""
    create_authorities(str(tmp_path / "authority"))
    file = tmp_path / "octavia.toml"
    file.write_text(f"""
[controller_worker]
compute_driver = "local"
network_driver = "local"
amphora_driver = "haproxy"
[certificates]
cert_manager = "local"
[database]
connection = "sqlite:///{tmp_path}/octavia.db"
""")
    return file


def test_a_database_without_tables_is_told_how_to_get_them(local: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--config-file", str(local)]
    assert run(["why", "web", *options]) == 5
    advice = capsys.readouterr().err.strip().rpartition("run: octavia-admin ")[2]
    assert advice == f"db upgrade --config-file {local}"
    assert run(["db", "check", *options, "--json"]) == 5
    assert f"db upgrade --config-file {local}" in json.loads(capsys.readouterr().out)["error"]["message"]
    assert run(advice.split()) == 0, "what it said can be typed as it is"
    assert run(["db", "check", *options]) == 0


def test_who_only_looks_needs_no_state_directory_for_local_drivers(
    local: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(load_settings([str(local)]))
    for words in (["lb", "list"], ["operation", "list"], ["health", "show"], ["events"]):
        assert run([*words, "--config-file", str(local)]) == 0, capsys.readouterr().err
    assert run(["why", "web", "--config-file", str(local)]) == 3
    said = capsys.readouterr().err
    assert f"octavia-admin lb list --config-file {local}" in said
    assert run(["orphans", "--config-file", str(local)]) == 5
    assert "--state" in capsys.readouterr().err, "what needs the drivers says what to type"
