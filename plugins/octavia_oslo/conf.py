"""Reading octavia.conf: upstream's names, types and defaults by oslo.config, made a source of the core's settings."""

from __future__ import annotations

import difflib
import functools
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oslo_config import cfg, types

from octavia_core.errors import ConfigurationError
from octavia_core.settings import Settings
from octavia_oslo.options import ENVIRONMENT, LIBRARY_GROUPS, REMOVED, lines, register

__all__ = ["environment", "open_conf", "read", "unknown_options"]

log = logging.getLogger("octavia_oslo.conf")

Values = Mapping[str, Mapping[str, Any]]

_OURS = tuple((group, name) for group, name, _, _ in Settings())


@functools.cache
def _table() -> frozenset[tuple[str, str]]:
    return frozenset((line.group, line.name) for line in lines())


def open_conf(files: Sequence[str]) -> cfg.ConfigOpts:
    """An oslo.config object with everything that these files say, later ones winning.

    Raises:
        ConfigurationError: a file cannot be read, is no INI, or a value is of the wrong type.
    """
    conf = cfg.ConfigOpts()
    register(conf)
    for group, name in _OURS:
        if (group, name) not in _table():  # settings that upstream has not: text here, converted by the core
            conf.register_opt(cfg.Opt(name, type=types.String()), group=group)
    try:
        conf([], project="octavia", default_config_files=list(files), default_config_dirs=[])
    except cfg.ConfigFileParseError as error:
        raise ConfigurationError(f"{error.config_file} is no octavia.conf: {error.msg}") from error
    except (cfg.Error, OSError) as error:
        raise ConfigurationError(f"{', '.join(files)}: {error}") from error
    return conf


def read(path: str) -> Values:
    """What one file sets, as a source of settings: group -> option -> value; what it leaves alone is left out.

    Options that mean nothing here are passed over; names that nobody knows are warned about.

    Raises:
        ConfigurationError: the file cannot be read, or a value is of the wrong type; a secret's value is not shown.
    """
    if not os.access(path, os.R_OK):
        raise ConfigurationError(f"{path} cannot be read; check that it is there and who may read it")
    conf = open_conf([path])
    found: dict[str, dict[str, Any]] = {}
    for group, name in _OURS:
        try:
            place = conf.get_location(name, group)
            if place is None or place.location is not cfg.Locations.user:
                continue
            value = conf[group][name]
        except cfg.ConfigFileValueError as error:
            cause = "it is a secret, so its value is not shown" if _secret(group, name) else str(error)
            raise ConfigurationError(f"{path}: [{group}] {name} is not as it should be: {cause}") from None
        found.setdefault(group, {})[name] = str(value) if isinstance(value, types.IPAddress) else value
    for complaint in unknown_options(path):
        log.warning("%s: %s", path, complaint)
    return found


def environment() -> Values:
    """The defaults that upstream takes from the environment; weaker than any file."""
    found: dict[str, dict[str, Any]] = {}
    for variable, (group, name) in ENVIRONMENT.items():
        value = os.environ.get(variable)
        if value is not None and (group, name) in _OURS:
            found.setdefault(group, {})[name] = value
    return found


def unknown_options(path: str) -> list[str]:
    """One sentence for each name in the file that neither upstream nor we know."""
    sections: dict[str, Any] = {}
    cfg.ConfigParser(str(Path(path)), sections).parse()
    known = _table() | set(_OURS) | REMOVED
    groups = sorted({group for group, _ in known} | LIBRARY_GROUPS)
    complaints: list[str] = []
    for group, options in sections.items():
        if group in LIBRARY_GROUPS:
            continue
        if group not in groups:
            complaints.append(f"nobody knows the group [{group}]{_near(group, groups)}")
            continue
        names = [name for each, name in known if each == group]
        complaints += [f"nobody knows [{group}] {name}{_near(name, names)}" for name in options if name not in names]
    return complaints


def _secret(group: str, name: str) -> bool:
    return any(line.secret for line in lines() if (line.group, line.name) == (group, name))


def _near(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
