"""The secret store of the simulated cloud."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from octavia_core.domain.secret import Secret
from octavia_core.errors import SecretMissing
from octavia_core.testing.outside import SimulatedCloud, Things

__all__ = ["SimulatedSecrets"]


class SimulatedSecrets:
    """SecretStorePort. `put` is for tests; what it is given must be made for tests, it is kept as it is."""

    time_limit = 5.0

    def __init__(self, cloud: SimulatedCloud) -> None:
        self._cloud = cloud

    def put(self, ref: str, payloads: Mapping[str, bytes]) -> None:
        """Store payloads under a reference, or replace them."""
        content = {key: base64.b64encode(value).decode("ascii") for key, value in payloads.items()}
        self._cloud.look(lambda things: things.put("secret", ref, content))

    def remove(self, ref: str) -> None:
        """Take a secret away."""
        self._cloud.look(lambda things: things.remove("secret", ref))

    def fetch(self, ref: str) -> Mapping[str, Secret]:
        def do(things: Things) -> dict[str, Secret]:
            content = things.get("secret", ref)
            if content is None:
                raise SecretMissing(f"the simulated store has no secret {ref!r}")
            return {key: Secret(base64.b64decode(value)) for key, value in content.items()}

        return self._cloud.call("secrets.fetch", ref, do)
