"""Secrets from files under one directory (`[certificates] storage_path`).

A reference is a name. Behind the name NAME stand, whichever is there:

- a directory `NAME/` with `certificate.pem` and `private_key.pem`, and where wanted `intermediates.pem` and
  `private_key_passphrase`; or with `bundle.p12`; or with `payload`;
- a file `NAME.pem` with certificate, key and intermediates one after the other; `NAME.p12`; or a file `NAME` as it is.

A reference `file:///absolute/path` names such a file or directory anywhere on this machine; it must belong to this user
(or root), so that nobody else on the machine can slip a certificate in.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

from octavia_core.domain.secret import Secret
from octavia_core.errors import SecretMissing, TransientError
from octavia_core.settings import Settings

__all__ = ["FileSecrets"]

_LARGEST = 1024 * 1024
"""Bytes; a certificate chain is some kilobytes."""

_IN_DIRECTORY = {
    "certificate.pem": "certificate",
    "private_key.pem": "private_key",
    "intermediates.pem": "intermediates",
    "private_key_passphrase": "private_key_passphrase",
    "bundle.p12": "pkcs12",
    "payload": "payload",
}

_PEM_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----\n?", re.DOTALL)


class FileSecrets:
    """SecretStorePort: files.

    Args:
        settings: the group `certificates`.
    """

    time_limit = 5.0

    def __init__(self, settings: Settings) -> None:
        self._folder = Path(settings.certificates.storage_path)

    def fetch(self, ref: str) -> Mapping[str, Secret]:
        path = self._locate(ref)
        try:
            if path.is_dir():
                return _directory(ref, path)
            for candidate in (path, path.with_name(path.name + ".pem"), path.with_name(path.name + ".p12")):
                if candidate.is_file():
                    return _payloads(ref, candidate, _read(ref, candidate))
            if path.exists():
                raise SecretMissing(
                    f"secret {ref!r}: {path} is {_what(path)}, and a secret is a plain file or a directory"
                )
        except OSError as error:
            raise _unreadable(ref, path, error) from error
        raise SecretMissing(f"no secret {ref!r}: there is neither {path} nor {path}.pem; put it there")

    def _locate(self, ref: str) -> Path:
        """The path that a reference names.

        Raises:
            SecretMissing: the reference leads out of the directory.
        """
        if "\0" in ref:
            raise SecretMissing(f"secret reference {ref!r} is no file name")
        if ref.startswith("file:///"):
            path = Path(unquote(ref.removeprefix("file://")))
            if ".." in path.parts or "\0" in str(path):
                raise SecretMissing(f"secret reference {ref!r} must be an absolute path without '..'")
            return path
        if not ref or ref.startswith("/") or any(part in ("", ".", "..") for part in ref.split("/")):
            raise SecretMissing(
                f"secret reference {ref!r} leads out of {self._folder}; give the name of a file there, or file:///absolute/path"
            )
        path = self._folder / ref
        if not path.resolve().is_relative_to(self._folder.resolve()):
            raise SecretMissing(f"secret {ref!r} is a link that leads out of {self._folder}; use file:///absolute/path")
        return path


def _what(path: Path) -> str:
    mode = path.stat().st_mode
    kinds = (
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((words for is_it, words in kinds if is_it(mode)), "something else")


def _directory(ref: str, path: Path) -> Mapping[str, Secret]:
    found = {key: _read(ref, path / name) for name, key in _IN_DIRECTORY.items() if (path / name).is_file()}
    if "private_key_passphrase" in found:
        found["private_key_passphrase"] = Secret(found["private_key_passphrase"].reveal().rstrip(b"\r\n"))
    if found.keys() >= {"certificate", "private_key"} or found.keys() & {"pkcs12", "payload"}:
        return found
    missing = "certificate.pem" if "certificate" not in found else "private_key.pem"
    raise SecretMissing(f"secret {ref!r}: {path} has no {missing}")


def _payloads(ref: str, path: Path, content: Secret) -> Mapping[str, Secret]:
    """Tell by its content what a single file is."""
    if path.suffix in (".p12", ".pfx"):
        return {"pkcs12": content}
    blocks = [(match[1], match[0]) for match in _PEM_BLOCK.finditer(content.reveal())]
    keys = [block for label, block in blocks if label.endswith(b"PRIVATE KEY")]
    certificates = [block for label, block in blocks if label == b"CERTIFICATE"]
    if not keys:
        return {"payload": content}
    if not certificates:
        raise SecretMissing(f"secret {ref!r}: {path} has a private key and no certificate")
    found = {"certificate": Secret(certificates[0]), "private_key": Secret(keys[0])}
    if certificates[1:]:
        found["intermediates"] = Secret(b"".join(certificates[1:]))
    return found


def _read(ref: str, path: Path) -> Secret:
    """Read a file that belongs to this user or root, and that nobody else may write.

    Raises:
        SecretMissing: it belongs to another user, others may write it, it is too large or no plain file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            raise SecretMissing(f"secret {ref!r}: {path} is no plain file")
        if about.st_uid not in (os.geteuid(), 0):
            raise SecretMissing(
                f"secret {ref!r}: {path} belongs to user {about.st_uid}, not to this one; take it over with chown"
            )
        if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise SecretMissing(f"secret {ref!r}: others may write {path}; run: chmod 600 {path}")
        if about.st_size > _LARGEST:
            raise SecretMissing(f"secret {ref!r}: {path} is {about.st_size} bytes long; at most {_LARGEST} are read")
        return Secret(file.read(_LARGEST))


def _unreadable(ref: str, path: Path, error: OSError) -> SecretMissing | TransientError:
    text = f"secret {ref!r} cannot be read: {error.filename or path}: {error.strerror or error}"
    if error.errno in (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE):
        return TransientError(text)
    return SecretMissing(text)
