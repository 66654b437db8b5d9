"""What every driver must hold, as functions: for our drivers, the simulator, and those of plugin authors.

A case says how to reach the driver and how to bring about what only its outside can do; each function of a contract gets a
fresh case and raises `ContractBroken` with the broken sentence. With pytest:

    @pytest.mark.parametrize("law", COMPUTE_CONTRACT, ids=lambda law: law.__name__)
    def test_my_compute_keeps_the_contract(law, my_case):
        law(my_case)
"""

from __future__ import annotations

from octavia_core.testing.contracts.compute import COMPUTE_CONTRACT, ComputeCase
from octavia_core.testing.contracts.network import NETWORK_CONTRACT, NetworkCase
from octavia_core.testing.contracts.secrets import SECRETS_CONTRACT, SecretsCase
from octavia_core.testing.contracts.words import ContractBroken

__all__ = [
    "COMPUTE_CONTRACT",
    "NETWORK_CONTRACT",
    "SECRETS_CONTRACT",
    "ComputeCase",
    "ContractBroken",
    "NetworkCase",
    "SecretsCase",
]
