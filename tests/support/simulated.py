"""Settings for an engine or a health manager on the simulator's drivers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from octavia_core.certs.authority import create_authorities
from octavia_core.settings import Settings
from tests.support.databases import copy_to

__all__ = ["on_simulator"]


def on_simulator(folder: Path, url: str, **groups: Mapping[str, Any]) -> Settings:
    """Drivers that do nothing (the simulator's plugin takes their place), authorities in the folder, a database.

    A file that is not there is made, with our tables.

    Args:
        folder: the state directory.
        url: of the database.
        groups: settings of other groups.
    """
    if url.startswith("sqlite:"):
        copy_to(Path(url.removeprefix("sqlite:///")))
    authority = folder / "authority"
    create_authorities(str(authority))
    given: dict[str, Mapping[str, Any]] = {
        "controller_worker": {
            "compute_driver": "noop",
            "network_driver": "noop",
            "amphora_driver": "noop",
            "client_ca": str(authority / "controllers.pem"),
        },
        "certificates": {
            "cert_manager": "noop",
            "ca_certificate": str(authority / "agents.pem"),
            "ca_private_key": str(authority / "agents.key"),
        },
        "database": {"connection": url},
    }
    return Settings.load(("test", given | groups), state_directory=str(folder))
