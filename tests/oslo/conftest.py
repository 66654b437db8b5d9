"""These tests need the extra `oslo`."""

from __future__ import annotations

import contextlib
import importlib
import warnings

from octavia_oslo.threads import use_threads

collect_ignore = ["test_conf.py", "test_consumer.py"]
with warnings.catch_warnings(), contextlib.suppress(ImportError):
    warnings.simplefilter("ignore")  # the libraries warn about each other when they are imported
    use_threads()
    importlib.import_module("oslo_messaging")
    collect_ignore = []
