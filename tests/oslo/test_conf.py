"""octavia.conf as upstream's programs read it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from octavia_core.certs.authority import check_passphrases, create_authorities
from octavia_core.controller.sources import load_settings, remarks, settings_files
from octavia_core.controller.wiring import build_world
from octavia_core.errors import ConfigurationError
from octavia_core.hooks.plugins import Plugins
from octavia_oslo import conf, options


def written(folder: Path, text: str, name: str = "octavia.conf") -> str:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return str(file)


def test_values_are_of_their_types_and_know_their_file(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "[health_manager]\nbind_port = 5556\ncontroller_ip_port_list = 192.0.2.1:5555, 192.0.2.2:5555\n"
        "heartbeat_key = hush\n[haproxy_amphora]\nconnection_logging = false\nrest_request_conn_timeout = 2.5\n"
        "[engine]\nlease = 4\n",
    )
    settings = load_settings([file])
    assert settings.health_manager.bind_port == 5556
    assert settings.health_manager.controller_ip_port_list == ("192.0.2.1:5555", "192.0.2.2:5555")
    assert settings.haproxy_amphora.connection_logging is False
    assert settings.haproxy_amphora.rest_request_conn_timeout == 2.5
    assert settings.engine.lease == 4
    assert settings.origin("health_manager.bind_port") == file
    assert settings.files == (file,)
    assert "hush" not in repr(settings)


def test_the_last_file_wins(tmp_path: Path) -> None:
    first = written(tmp_path, "[controller_worker]\nworkers = 2\namp_timezone = UTC\n", "a.conf")
    second = written(tmp_path, "[controller_worker]\nworkers = 3\n", "b.conf")
    assert load_settings([first, second]).controller_worker.workers == 3


def test_the_environment_gives_defaults_that_files_win_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OS_OCTAVIA_TLS_CA_CERT", "/from/environment.pem")
    monkeypatch.setenv("OS_OCTAVIA_TLS_CA_KEY", "/from/environment.key")
    file = written(tmp_path, "[certificates]\nca_certificate = /from/file.pem\n")
    certificates = load_settings([file, written(tmp_path, "", "b.conf")]).certificates
    assert (certificates.ca_certificate, certificates.ca_private_key) == ("/from/file.pem", "/from/environment.key")


def test_oslos_own_environment_variables_win_over_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OS_CONTROLLER_WORKER__WORKERS", "7")
    monkeypatch.setenv("OS_DATABASE__CONNECTION", "sqlite:////from/environment")
    settings = load_settings([written(tmp_path, "[controller_worker]\nworkers = 3\namp_active_retries = 5\n")])
    assert (settings.controller_worker.workers, settings.controller_worker.amp_active_retries) == (7, 5)
    assert settings.database.connection.reveal() == b"sqlite:////from/environment"
    assert settings.origin("controller_worker.workers") == "environment"
    monkeypatch.setenv("OS_CONTROLLER_WORKER__WORKERS", "many")
    with pytest.raises(ConfigurationError, match=r"^OS_CONTROLLER_WORKER__WORKERS: \[controller_worker\] workers is"):
        load_settings([written(tmp_path, "")])


def test_files_of_a_folder_come_after_the_files_in_order_of_name(tmp_path: Path) -> None:
    file = written(tmp_path, "[controller_worker]\nworkers = 1\n")
    folder = tmp_path / "more"
    folder.mkdir()
    second = written(folder, "", "2.conf")
    first = written(folder, "[controller_worker]\nworkers = 2\n", "1.conf")
    written(folder, "this is not read", "3.txt")
    assert settings_files([file], [str(folder)]) == [file, first, second]
    assert load_settings(settings_files([file], [str(folder)])).controller_worker.workers == 2
    with pytest.raises(ConfigurationError, match="no directory"):
        settings_files([file], [file])


def test_told_no_file_the_usual_ones_of_oslo_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".octavia").mkdir()
    file = written(tmp_path / ".octavia", "[controller_worker]\nworkers = 4\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert settings_files([], []) == [file]
    Path(file).unlink()
    if not Path("/etc/octavia").exists():
        with pytest.raises(ConfigurationError, match="name one with --config-file"):
            settings_files([], [])


def test_a_passphrase_that_is_left_out_is_upstreams_and_is_refused(tmp_path: Path) -> None:
    left_out = load_settings([written(tmp_path, "")])
    with pytest.raises(ConfigurationError, match=r"left out of octavia\.conf.*set 32 random characters"):
        check_passphrases(left_out)
    check_passphrases(load_settings([written(tmp_path, f"[certificates]\nserver_certs_key_passphrase = {'x' * 32}\n")]))


def test_one_authority_for_both_is_warned_about_beside_an_api_and_refused_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = tmp_path / "authority"
    create_authorities(authority)
    text = f"""
[controller_worker]
compute_driver = {{0}}compute_noop_driver{{0}}
network_driver = {{0}}network_noop_driver{{0}}
amphora_driver = {{0}}amphora_noop_driver{{0}}
client_ca = {{0}}{authority}/agents.pem{{0}}
[certificates]
cert_manager = {{0}}noop_cert_manager{{0}}
ca_certificate = {{0}}{authority}/agents.pem{{0}}
ca_private_key = {{0}}{authority}/agents.key{{0}}
server_certs_key_passphrase = {{0}}{"x" * 32}{{0}}
"""
    beside = load_settings([written(tmp_path, text.format(""))], state_directory=str(tmp_path))
    with caplog.at_level(logging.WARNING):
        build_world(beside, Plugins()).amphora.close()
    assert any("make a second one for the controllers" in record.getMessage() for record in caplog.records)
    alone = load_settings([written(tmp_path, text.format('"'), "octavia.toml")], state_directory=str(tmp_path))
    with pytest.raises(ConfigurationError, match="make a second one for the controllers"):
        build_world(alone, Plugins())


def test_the_command_shows_what_a_file_says_and_what_of_it_has_no_effect(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from octavia_core.cli.program import run

    first = written(tmp_path, "[controller_worker]\nworkers = 2\n[health_manager]\nheartbeat_key = hush\n", "a.conf")
    second = written(tmp_path, "[controller_worker]\nworkers = 3\n[nova]\nregion_name = here\n", "b.conf")
    assert run(["config", "show", "--json", "--config-file", first, "--config-file", second]) == 0
    said = capfd.readouterr().out
    assert "hush" not in said
    rows = {(row["group"], row["option"]): row for row in json.loads(said)}
    assert (rows["controller_worker", "workers"]["value"], rows["controller_worker", "workers"]["origin"]) == (
        3,
        second,
    )
    assert rows["health_manager", "heartbeat_key"] == {
        "group": "health_manager", "option": "heartbeat_key", "value": "<secret>", "origin": first,
    }  # fmt: skip
    assert rows["nova", "region_name"]["remark"] == "has no effect here"
    noop = "[controller_worker]\ncompute_driver = noop\nnetwork_driver = noop\namphora_driver = noop\n"
    third = written(tmp_path, f"{noop}[certificates]\ncert_manager = noop\n", "c.conf")
    assert run(["config", "check", "--state", str(tmp_path), "--config-file", third]) == 5
    assert "is upstream's built-in passphrase" in capfd.readouterr().err


def test_what_has_no_effect_here_is_said(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "[DEFAULT]\nhost = here\n[task_flow]\nengine = serial\n[house_keeping]\nspare_check_interval = 1\n[controller_worker]\n"
        "workers = 1\nwokers = 2\n[health_manager]\nfailover_threads = 4\n",
    )
    said = {(group, name): words for _, group, name, words in remarks(load_settings([file]))}
    assert said[("task_flow", "engine")] == "has no effect here"
    assert "older release" in said[("house_keeping", "spare_check_interval")]
    assert "did you mean workers?" in said[("controller_worker", "wokers")]
    instead = "has no effect here; [engine] failovers_per_minute bounds failovers"
    assert said[("health_manager", "failover_threads")] == instead
    assert len(said) == 4


def test_a_value_that_refers_to_nothing_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="storage_path"):
        load_settings([written(tmp_path, "[certificates]\nstorage_path = $nowhere/certs\n")])


def test_names_that_nobody_knows_are_warned_about_with_the_nearest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = written(
        tmp_path,
        "[DEFAULT]\ndebug = true\n[controller_worker]\nwokers = 2\n[house_keeping]\nspare_check_interval = 30\n[kepalived]\na = 1\n",
    )
    with caplog.at_level(logging.WARNING):
        load_settings([file])
    said = [record.getMessage() for record in caplog.records if record.name == conf.log.name]
    assert len(said) == 2
    assert any("[controller_worker] wokers is known to nobody; did you mean workers?" in each for each in said)
    assert any("[kepalived] is a group that nobody knows; did you mean keepalived_vrrp?" in each for each in said)


@pytest.mark.parametrize(
    "text",
    ["[controller_worker]\nworkers = many\n", "no ini at all", "[health_manager]\nbind_ip = not an address\n"],
)
def test_what_is_wrong_is_one_sentence(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_settings([written(tmp_path, text)])
    assert "octavia.conf" in str(refused.value)


def test_a_wrong_value_is_said_without_the_librarys_own_names(tmp_path: Path) -> None:
    file = written(tmp_path, "[health_manager]\nbind_port = 99999999\n")
    with pytest.raises(ConfigurationError) as refused:
        load_settings([file])
    assert str(refused.value) == (
        f"{file}: [health_manager] bind_port is not as it should be: Should be less than or equal to 65535"
    )


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "octavia.conf").write_bytes(b"[DEFAULT]\nhost = \xff\xfe\n")
    with pytest.raises(ConfigurationError, match=r"octavia\.conf is no octavia\.conf: it is no text in UTF-8$"):
        load_settings([str(tmp_path / "octavia.conf")])


@pytest.mark.parametrize("said", ["workers = 0", "workers = -3"])
def test_a_number_of_processes_that_is_none_is_refused(tmp_path: Path, said: str) -> None:
    with pytest.raises(ConfigurationError, match=r"\[controller_worker\] workers must be at least 1, not"):
        load_settings([written(tmp_path, f"[controller_worker]\n{said}\n")])


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.conf"):
        load_settings([str(tmp_path / "absent.conf")])


def test_every_option_of_the_table_is_accepted_with_its_own_default(tmp_path: Path) -> None:
    opened = conf.open_conf([written(tmp_path, "")])
    for line in options.lines():
        value = opened[line.group][line.name] if line.group != "DEFAULT" else opened[line.name]
        assert (value is None) == (line.default is None), line
    assert len(list(options.lines())) == 199
