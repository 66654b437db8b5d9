"""Reading octavia.conf: upstream's names, types and defaults by oslo.config, made a source of the core's settings."""

from __future__ import annotations

import difflib
import functools
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oslo_config import cfg, types

from octavia_core.errors import ConfigurationError
from octavia_core.settings import Settings
from octavia_oslo.options import ENVIRONMENT, LIBRARY_GROUPS, READ_HERE, REMOVED, lines, register

__all__ = ["defaults", "open_conf", "overrides", "read", "remarks", "unknown_options", "usual_files"]

log = logging.getLogger("octavia_oslo.conf")

Values = Mapping[str, Mapping[str, Any]]

_PLACED = re.compile(r"detail='([^']*)'\) is not valid: (.*)", re.DOTALL)
"""What oslo.config says of a value that does not fit."""

_OURS = tuple((group, name) for group, name, _, _ in Settings())


@functools.cache
def _table() -> frozenset[tuple[str, str]]:
    return frozenset((line.group, line.name) for line in lines())


INSTEAD = {("health_manager", "failover_threads"): "[engine] failovers_per_minute bounds failovers"}
"""What upstream's option is meant for and something else does here."""


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
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{', '.join(files)} is no octavia.conf: it is no text in UTF-8") from error
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
        if _place(conf, group, name, path) is cfg.Locations.user:
            found.setdefault(group, {})[name] = _value(conf, group, name, path)
    for complaint in unknown_options(path):
        log.warning("%s: %s", path, complaint)
    return found


def defaults() -> list[tuple[str, Values]]:
    """What is weaker than any file: upstream's built-in passphrase, and the defaults that it takes from the environment.

    Of upstream's own defaults only that one is said: whoever leaves the passphrase out uses it, and it is refused later.
    """
    found: dict[str, dict[str, Any]] = {}
    for variable, (group, name) in ENVIRONMENT.items():
        value = os.environ.get(variable)
        if value is not None and (group, name) in _OURS:
            found.setdefault(group, {})[name] = value
    group, name = "certificates", "server_certs_key_passphrase"
    built_in = next(line.default for line in lines() if (line.group, line.name) == (group, name))
    return [("left out of octavia.conf", {group: {name: built_in}}), ("environment", found)]


def overrides() -> list[tuple[str, Values]]:
    """What is stronger than any file: oslo.config's own environment variables, OS_GROUP__OPTION."""
    conf = open_conf([])
    found: dict[str, dict[str, Any]] = {}
    for group, name in _OURS:
        if _place(conf, group, name, "environment") is cfg.Locations.environment:
            found.setdefault(group, {})[name] = _value(conf, group, name, "environment")
    return [("environment", found)]


def usual_files() -> list[str]:
    """The files that oslo.config finds for project octavia when it is told none."""
    files = list(cfg.find_config_files(project="octavia"))
    for folder in cfg.find_config_dirs(project="octavia"):
        files += sorted(str(path) for path in Path(folder).glob("*.conf"))
    return files


def remarks(path: str) -> list[tuple[str, str, str]]:
    """(group, option, words) for everything in the file that upstream reads, or once did, and that does nothing here."""
    found: list[tuple[str, str, str]] = []
    for group, options in _sections(path).items():
        for name in options:
            if (group, name) in REMOVED:
                found.append((group, name, "is of an older release of upstream and has no effect"))
            elif (group, name) in INSTEAD:
                found.append((group, name, f"has no effect here; {INSTEAD[group, name]}"))
            elif (group, name) in _table() and (group, name) not in _OURS and (group, name) not in READ_HERE:
                found.append((group, name, "has no effect here"))
    return found + [(group, name, words) for group, name, words in _unknown(path)]


def unknown_options(path: str) -> list[str]:
    """One sentence for each name in the file that neither upstream nor we know."""
    return [f"[{group}] {name} {words}" if name else f"[{group}] {words}" for group, name, words in _unknown(path)]


def _unknown(path: str) -> list[tuple[str, str, str]]:
    known = _table() | set(_OURS) | REMOVED
    groups = sorted({group for group, _ in known} | LIBRARY_GROUPS)
    found: list[tuple[str, str, str]] = []
    for group, options in _sections(path).items():
        if group in LIBRARY_GROUPS:
            continue
        if group not in groups:
            found.append((group, "", f"is a group that nobody knows{_near(group, groups)}"))
            continue
        names = [name for each, name in known if each == group]
        found += [(group, name, f"is known to nobody{_near(name, names)}") for name in options if name not in names]
    return found


def _sections(path: str) -> dict[str, Any]:
    sections: dict[str, Any] = {}
    cfg.ConfigParser(str(Path(path)), sections).parse()
    return sections


def _place(conf: cfg.ConfigOpts, group: str, name: str, origin: str) -> Any:
    """Where the value stands, one of `cfg.Locations`; None for nowhere."""
    try:
        place = conf.get_location(name, group)
    except (cfg.Error, ValueError) as error:
        raise _refused(group, name, origin, error) from None
    return None if place is None else place.location


def _value(conf: cfg.ConfigOpts, group: str, name: str, origin: str) -> Any:
    try:
        value = conf[group][name]
    except (cfg.Error, ValueError) as error:
        raise _refused(group, name, origin, error) from None
    return str(value) if isinstance(value, types.IPAddress) else value


def _refused(group: str, name: str, origin: str, error: Exception) -> ConfigurationError:
    # the library's own words, with the place in ours: "... from LocationInfo(..., detail='PLACE') is not valid: WHY"
    found = _PLACED.search(str(error))
    place, words = found.groups() if found else (origin, str(error))
    origin = place if place in (origin, *os.environ) else origin
    cause = "it is a secret, so its value is not shown" if _secret(group, name) else words
    return ConfigurationError(f"{origin}: [{group}] {name} is not as it should be: {cause}")


def _secret(group: str, name: str) -> bool:
    return any(line.secret for line in lines() if (line.group, line.name) == (group, name))


def _near(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
