"""Which kind of threads oslo's libraries use: the system's."""

from __future__ import annotations

import contextlib

__all__ = ["use_threads"]


def use_threads() -> None:
    """Choose before oslo.messaging is imported: where eventlet happens to be installed, it would be taken by default."""
    try:
        from oslo_service import backend
        from oslo_service.backend.exceptions import BackendAlreadySelected
    except ImportError:
        return  # older releases know no choice
    with contextlib.suppress(BackendAlreadySelected, ValueError):  # ValueError: installed without its extra `threading`
        backend.init_backend(backend.BackendType.THREADING)
