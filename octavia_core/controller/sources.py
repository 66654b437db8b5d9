"""Settings from files, each read by whoever knows files of that name."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from octavia_core.controller.state import read_toml
from octavia_core.errors import ConfigurationError
from octavia_core.hooks.plugins import Plugins
from octavia_core.hooks.specs import Source
from octavia_core.ports.requests import Accept, RequestSource
from octavia_core.settings import Settings

__all__ = ["beside_an_api", "load_settings", "remarks", "request_source", "settings_files"]

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
    sources = [(file, reader(file)) for file, reader in chosen]
    before = _offered(plugins.hook.octavia_settings_defaults(), used)
    after = _offered(plugins.hook.octavia_settings_overrides(), used)
    return attrs.evolve(
        Settings.load(*before, *sources, *after, state_directory=state_directory),
        files=tuple(map(os.path.abspath, files)),
    )


def settings_files(files: Sequence[str], folders: Sequence[str]) -> list[str]:
    """The settings files of a program: those it is told, then every `*.conf` of the folders; told none, the usual ones.

    Raises:
        ConfigurationError: a folder is none, or there is no file at all.
    """
    found = list(files)
    for folder in folders:
        if not os.path.isdir(folder):
            raise ConfigurationError(f"{folder} is no directory; --config-dir takes one with *.conf files in it")
        found += sorted(str(path) for path in Path(folder).glob("*.conf"))
    if not files and not folders:
        for offered in Plugins().hook.octavia_settings_files():
            for usual in offered.values():
                found += usual()
    if not found:
        raise ConfigurationError("there is no settings file in the usual places; name one with --config-file")
    return found


def remarks(settings: Settings) -> list[tuple[str, str, str, str]]:
    """(file, group, option, words) for everything in the settings files that is worth a word: what has no effect here."""
    found = []
    for offered in Plugins().hook.octavia_settings_remarks():
        for name, look in offered.items():
            for file in settings.files:
                if _alike(file, name):
                    found += [(file, *remark) for remark in look(file)]
    return found


def beside_an_api(settings: Settings, plugins: Plugins) -> bool:
    """Whether these settings come with a listener for requests: then an API of somebody else's works on our rows."""
    offered = [name for names in plugins.hook.octavia_request_sources() for name in names]
    return any(_alike(file, name) for file in settings.files for name in offered)


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


def _offered(hooks: Iterable[Mapping[str, Callable[[], Sequence[Source]]]], used: Collection[str]) -> list[Source]:
    return [source for hook in hooks for name, sources in hook.items() if name in used for source in sources()]


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
