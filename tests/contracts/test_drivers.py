"""Every driver of the house keeps the contract of its port: the simulator as well as the real ones."""

from __future__ import annotations

import ipaddress

import pytest
import trustme

from octavia_core.domain.secret import Secret
from octavia_core.testing.contracts import (
    COMPUTE_CONTRACT,
    NETWORK_CONTRACT,
    SECRETS_CONTRACT,
    ComputeCase,
    NetworkCase,
    SecretsCase,
)
from octavia_core.testing.outside import SimulatedCloud
from octavia_core.testing.simulator import SimulatedCompute, SimulatedNetwork, SimulatedSecrets
from octavia_local.namespace_network import NamespaceNetwork
from octavia_local.network import LocalNetwork
from octavia_local.secrets import FileSecrets
from tests.local.rig import LocalRig
from tests.namespaces.rig import NETWORK, require_namespaces


def _name(law):
    return law.__name__


@pytest.fixture
def local_compute(tmp_path):
    with LocalRig(tmp_path / "state") as rig:
        yield ComputeCase(compute=rig.compute, again=rig.again, files=rig.files, kill=rig.kill, freeze=rig.freeze)


@pytest.fixture
def namespaces(tmp_path):
    require_namespaces()
    with LocalRig(tmp_path / "state", amphora="namespace", namespace_network=NETWORK) as rig:
        yield rig


@pytest.fixture
def namespace_compute(namespaces):
    rig = namespaces
    return ComputeCase(compute=rig.compute, again=rig.again, files=rig.files, kill=rig.kill, freeze=rig.freeze)


@pytest.fixture
def namespace_network(namespaces):
    rig = namespaces
    return NetworkCase(
        network=NamespaceNetwork(rig.settings),
        again=lambda: NamespaceNetwork(rig.settings),
        free=str(ipaddress.IPv4Network(NETWORK)[77]),
        foreign="192.0.2.1",
        nowhere="8f3a2c1e-0000-4000-8000-000000000001",
    )


@pytest.fixture
def cloud(tmp_path):
    cloud = SimulatedCloud(tmp_path / "cloud.db", boot_seconds=0.01)
    yield cloud
    cloud.close()


@pytest.fixture
def simulated_compute(cloud):
    compute = SimulatedCompute(cloud)
    return ComputeCase(
        compute=compute,
        again=lambda: SimulatedCompute(cloud),
        files=lambda amphora_id: {"/etc/octavia/certs/server.pem": Secret("a key")},
        kill=lambda server: compute.kill(server.id),
    )


@pytest.fixture
def local_network(tmp_path):
    with LocalRig(tmp_path / "state") as rig:
        free = ipaddress.IPv4Network(rig.settings.local.network)[77]
        yield NetworkCase(
            network=LocalNetwork(rig.settings),
            again=lambda: LocalNetwork(rig.settings),
            free=str(free),
            foreign="192.0.2.1",
            nowhere="8f3a2c1e-0000-4000-8000-000000000001",
        )


@pytest.fixture
def simulated_network(cloud):
    return NetworkCase(
        network=SimulatedNetwork(cloud),
        again=lambda: SimulatedNetwork(cloud),
        free="10.128.7.7",
        foreign="192.0.2.1",
        subnets=("one", "two"),
    )


def _certificate():
    issued = trustme.CA().issue_cert("www.example.org")
    return issued.cert_chain_pems[0].bytes(), issued.private_key_pem.bytes()


@pytest.fixture
def local_secrets(tmp_path):
    with LocalRig(tmp_path / "state") as rig:
        certificate, key = _certificate()
        folder = tmp_path / "state" / "secrets"
        folder.mkdir(mode=0o700)
        (folder / "web.pem").write_bytes(certificate + key)
        (folder / "clients").write_bytes(certificate)
        for file in folder.iterdir():
            file.chmod(0o600)
        yield SecretsCase(
            store=FileSecrets(rig.settings), certificate_ref="web", payload_ref="clients", absent_ref="absent"
        )


@pytest.fixture
def simulated_secrets(cloud):
    store = SimulatedSecrets(cloud)
    certificate, key = _certificate()
    store.put("web", {"certificate": certificate, "private_key": key})
    store.put("clients", {"payload": certificate})
    return SecretsCase(store=store, certificate_ref="web", payload_ref="clients", absent_ref="absent")


@pytest.mark.parametrize("law", COMPUTE_CONTRACT, ids=_name)
@pytest.mark.parametrize("driver", ["local_compute", "namespace_compute", "simulated_compute"])
def test_compute(driver, law, request):
    law(request.getfixturevalue(driver))


@pytest.mark.parametrize("law", NETWORK_CONTRACT, ids=_name)
@pytest.mark.parametrize("driver", ["local_network", "namespace_network", "simulated_network"])
def test_network(driver, law, request):
    law(request.getfixturevalue(driver))


@pytest.mark.parametrize("law", SECRETS_CONTRACT, ids=_name)
@pytest.mark.parametrize("driver", ["local_secrets", "simulated_secrets"])
def test_secrets(driver, law, request):
    law(request.getfixturevalue(driver))
