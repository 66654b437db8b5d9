"""Settings from files, each read by whoever knows files of that name."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from octavia_core.controller.state import read_toml
from octavia_core.errors import ConfigurationError
from octavia_core.hooks.plugins import Plugins
from octavia_core.ports.requests import Accept, RequestSource
from octavia_core.settings import Settings

__all__ = ["load_settings", "request_source"]

Reader = Callable[[str], Mapping[str, Mapping[str, Any]]]


def load_settings(files: Sequence[str], *, state_directory: str = "") -> Settings:
    """Settings from files, later ones winning; the reader of each is chosen by its name, then by its ending.

    `state_directory` is where drivers of this machine keep what is theirs.

    Raises:
        ConfigurationError: nobody reads such a file, or what it says is wrong.
    """
    readers: dict[str, Reader] = {"octavia.toml": read_toml}
    plugins = Plugins()
    for offered in plugins.hook.octavia_settings_sources():
        readers.update(offered)
    chosen = [(file, readers[_known(file, readers)]) for file in files]
    used = {_known(file, readers) for file in files}
    defaults = [
        ("environment", values())
        for offered in plugins.hook.octavia_settings_defaults()
        for name, values in offered.items()
        if name in used
    ]
    sources = [(file, reader(file)) for file, reader in chosen]
    return attrs.evolve(
        Settings.load(*defaults, *sources, state_directory=state_directory), files=tuple(map(os.path.abspath, files))
    )


def request_source(settings: Settings, accept: Accept) -> RequestSource | None:
    """The listener that the settings files bring, or None when none of them names one.

    Raises:
        DriverUnavailable: what it needs is not installed.
    """
    for offered in Plugins().hook.octavia_request_sources():
        for name, factory in offered.items():
            files = [file for file in settings.files if _alike(file, name)]
            if files:
                source: RequestSource = factory(files, accept)
                return source
    return None


def _known(file: str, readers: Mapping[str, Reader]) -> str:
    """The name under which a reader of that file is known."""
    if Path(file).name in readers:
        return Path(file).name
    alike = [known for known in readers if _alike(file, known)]
    if len(alike) != 1:
        known = ", ".join(sorted(readers))
        raise ConfigurationError(f"{file}: no plugin reads settings of that name; known are {known}")
    return alike[0]


def _alike(file: str, name: str) -> bool:
    path = Path(file)
    return path.name == name or bool(path.suffix and path.suffix == Path(name).suffix)
