"""Settings from files, each read by whoever knows files of that name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from octavia_core.controller.state import read_toml
from octavia_core.errors import ConfigurationError
from octavia_core.hooks.plugins import Plugins
from octavia_core.settings import Settings

__all__ = ["load_settings"]

Reader = Callable[[str], Mapping[str, Mapping[str, Any]]]


def load_settings(files: Sequence[str], *, state_directory: str = "") -> Settings:
    """Settings from files, later ones winning; the reader of each is chosen by its name, then by its ending.

    `state_directory` is where drivers of this machine keep what is theirs.

    Raises:
        ConfigurationError: nobody reads such a file, or what it says is wrong.
    """
    readers: dict[str, Reader] = {"octavia.toml": read_toml}
    for offered in Plugins().hook.octavia_settings_sources():
        readers.update(offered)
    return Settings.load(*((file, _reader(file, readers)(file)) for file in files), state_directory=state_directory)


def _reader(file: str, readers: Mapping[str, Reader]) -> Reader:
    path = Path(file)
    if path.name in readers:
        return readers[path.name]
    alike = [reader for known, reader in readers.items() if path.suffix and Path(known).suffix == path.suffix]
    if len(alike) != 1:
        known = ", ".join(sorted(readers))
        raise ConfigurationError(f"{file}: no plugin reads settings of that name; known are {known}")
    return alike[0]
