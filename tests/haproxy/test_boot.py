"""The files an amphora boots with."""

from __future__ import annotations

import configparser
import subprocess
import sys

import attrs
import pytest

from octavia_core.domain.secret import Secret
from octavia_core.domain.vocabulary import Topology
from octavia_core.errors import ConfigurationError
from octavia_core.hooks.plugins import Plugins
from octavia_core.ports.amphora import BootIdentity
from octavia_core.settings import AmphoraAgent, HealthManager, Settings
from octavia_haproxy import plugin
from octavia_haproxy.driver import HaproxyDriver
from tests.haproxy.agent import AMPHORA_ID, Agent, controller_settings

IDENTITY = BootIdentity(
    amphora_id=AMPHORA_ID,
    topology=Topology.ACTIVE_STANDBY,
    server_pem=Secret("cert and key"),
    controller_ca_pem=b"authority",
)
HEALTH = HealthManager(
    heartbeat_key=Secret("insecure%(key)s"), controller_ip_port_list=("192.0.2.1:5555", "[2001:db8::1]:5555")
)


def boot(**groups):
    return HaproxyDriver(Settings(**{"health_manager": HEALTH, **groups})).boot_files(IDENTITY)


def ini(files):
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(files["/etc/octavia/amphora-agent.conf"].reveal().decode())
    return parser


def test_the_files_are_those_of_upstream_s_image():
    files = boot()
    assert set(files) == {
        "/etc/octavia/amphora-agent.conf",
        "/etc/rsyslog.d/10-rsyslog.conf",
        "/etc/octavia/certs/server.pem",
        "/etc/octavia/certs/client_ca.pem",
    }
    assert files["/etc/octavia/certs/server.pem"].reveal() == b"cert and key"
    assert files["/etc/octavia/certs/client_ca.pem"].reveal() == b"authority"
    assert files["/etc/rsyslog.d/10-rsyslog.conf"].reveal() == b""
    assert "insecure" not in repr(files)


def test_the_agent_s_settings_are_all_that_upstream_writes():
    parser = ini(boot())
    assert {group: dict(parser[group]) for group in parser.sections()} == {
        "haproxy_amphora": {
            "base_cert_dir": "/var/lib/octavia/certs", "base_path": "/var/lib/octavia", "bind_host": "::",
            "bind_port": "9443", "haproxy_cmd": "/usr/sbin/haproxy", "user_log_facility": "0",
            "administrative_log_facility": "1", "debug": "False", "use_syslog": "True",
            "syslog_log_facility": "LOG_LOCAL1",
        },
        "health_manager": {
            "controller_ip_port_list": "192.0.2.1:5555, [2001:db8::1]:5555", "heartbeat_interval": "10",
            "heartbeat_key": "insecure%(key)s", "debug": "False", "use_syslog": "True",
            "syslog_log_facility": "LOG_LOCAL1",
        },
        "amphora_agent": {
            "agent_server_ca": "/etc/octavia/certs/client_ca.pem", "agent_server_cert": "/etc/octavia/certs/server.pem",
            "agent_request_read_timeout": "180", "amphora_id": AMPHORA_ID, "amphora_udp_driver": "keepalived_lvs",
            "agent_tls_protocol": "TLSv1.2", "debug": "False", "use_syslog": "True",
            "syslog_log_facility": "LOG_LOCAL1",
        },
        "controller_worker": {
            "loadbalancer_topology": "ACTIVE_STANDBY", "debug": "False", "use_syslog": "True",
            "syslog_log_facility": "LOG_LOCAL1",
        },
    }  # fmt: skip


def test_the_line_of_the_certificate_directory_has_its_path_as_third_word():
    text = boot()["/etc/octavia/amphora-agent.conf"].reveal().decode()
    [line] = [line for line in text.splitlines() if line.startswith("base_cert_dir")]
    assert line.split()[2] == "/var/lib/octavia/certs"


def test_without_a_list_of_controllers_it_is_this_one():
    health = attrs.evolve(HEALTH, controller_ip_port_list=(), bind_ip="127.0.0.1", bind_port=4444)
    assert ini(boot(health_manager=health))["health_manager"]["controller_ip_port_list"] == "127.0.0.1:4444"
    health = attrs.evolve(health, bind_ip="2001:db8::1", heartbeat_interval=0.2)
    parser = ini(boot(health_manager=health))
    assert parser["health_manager"]["controller_ip_port_list"] == "[2001:db8::1]:4444"
    assert parser["health_manager"]["heartbeat_interval"] == "0.2"


@pytest.mark.parametrize(
    ("health", "said"),
    [
        (attrs.evolve(HEALTH, heartbeat_key=None), "heartbeat_key is not set"),
        (attrs.evolve(HEALTH, heartbeat_key=Secret("")), "heartbeat_key is not set"),
        (attrs.evolve(HEALTH, heartbeat_key=Secret("a\nagent_server_ca = /tmp/x")), "heartbeat_key cannot be written"),
        (attrs.evolve(HEALTH, heartbeat_key=Secret("$ecret")), "heartbeat_key cannot be written"),
        (attrs.evolve(HEALTH, heartbeat_key=Secret(" key")), "heartbeat_key cannot be written"),
        (attrs.evolve(HEALTH, heartbeat_key=Secret("'key'")), "heartbeat_key cannot be written"),
        (attrs.evolve(HEALTH, controller_ip_port_list=(), bind_port=0), "would not know where to send heartbeats"),
    ],
)
def test_settings_that_no_amphora_could_live_with_are_named(health, said):
    with pytest.raises(ConfigurationError, match=said) as caught:
        boot(health_manager=health)
    assert "ecret" not in str(caught.value)


def test_log_forwarding_as_rsyslog_reads_it():
    agent = AmphoraAgent(
        tenant_log_targets=("192.0.2.9:514", "[2001:db8::9]:1514"), admin_log_targets=("logs.example.com:514",),
        log_protocol="tcp", forward_all_logs=True, disable_local_log_storage=True,
    )  # fmt: skip
    assert boot(amphora_agent=agent)["/etc/rsyslog.d/10-rsyslog.conf"].reveal().decode() == (
        'ruleset(name="tenant_forwarding" queue.type="linkedList" queue.size="10000") {\n'
        '  action(type="omfwd" target="192.0.2.9" port="514" protocol="TCP" action.resumeRetryCount="5"'
        ' action.resumeInterval="2")\n'
        '  action(type="omfwd" target="[2001:db8::9]" port="1514" protocol="TCP" action.resumeRetryCount="5"'
        ' action.resumeInterval="2" action.execOnlyWhenPreviousIsSuspended="on")\n'
        "}\n"
        'ruleset(name="admin_forwarding" queue.type="linkedList" queue.size="10000") {\n'
        '  action(type="omfwd" target="logs.example.com" port="514" protocol="TCP" action.resumeRetryCount="5"'
        ' action.resumeInterval="2")\n'
        "}\n"
        "local0.=info call tenant_forwarding\n"
        "*.*;local0.none call admin_forwarding\n"
        "*.* stop\n"
    )
    only_admin = AmphoraAgent(admin_log_targets=("a:1",))
    assert (
        boot(amphora_agent=only_admin)["/etc/rsyslog.d/10-rsyslog.conf"]
        .reveal()
        .endswith(b"local1.* call admin_forwarding\n")
    )


@pytest.mark.parametrize("target", ["nowhere", ":514", "host:", "host:x", 'ho"st:514', "ho\nst:514"])
def test_a_log_target_that_is_none_is_named(target):
    with pytest.raises(ConfigurationError, match="is not host:port"):
        boot(amphora_agent=AmphoraAgent(admin_log_targets=(target,)))


def test_a_running_agent_gets_the_same_settings_again(tmp_path):
    with Agent() as agent:
        driver = HaproxyDriver(controller_settings(agent, tmp_path))
        driver.update_agent(agent.at, IDENTITY)
        driver.rotate_certificate(agent.at, Secret("new pem"))
        driver.close()
        config, certificate = agent.asked
        assert (str(config), str(certificate)) == ("PUT /1.0/config", "PUT /1.0/certificate")
        assert config.body == driver.boot_files(IDENTITY)["/etc/octavia/amphora-agent.conf"].reveal()
        assert certificate.body == b"new pem"


def test_the_plugin_offers_the_driver_under_upstream_s_name_as_well():
    plugins = Plugins({"haproxy": plugin}, installed=False)
    for name in ("haproxy", "amphora_haproxy_rest_driver"):
        driver = plugins.driver("amphora", name, Settings())
        assert isinstance(driver, HaproxyDriver)
        assert driver.time_limit == 70.0


def test_importing_the_plugin_loads_no_http_library_and_opens_nothing():
    code = "import sys, octavia_haproxy.plugin; print([n for n in ('urllib3', 'cryptography', 'http.client') if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert done.stdout.strip() == "[]"
