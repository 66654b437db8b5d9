"""What all tests share: databases as a parameter, and servers that end with the run."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import hypothesis
import pytest

from tests.support import servers

DATABASES = [
    "sqlite",
    pytest.param("mariadb", marks=pytest.mark.external),
    pytest.param("postgresql", marks=pytest.mark.external),
]


# Laws hold on a busy machine too: how long an example takes is nobody's business. Each normal run tries the same examples, so that a
# change is judged by what it changes; new ones are hunted for in `nox -s full`.
for name, same in (("house", True), ("hunt", False)):
    hypothesis.settings.register_profile(
        name,
        deadline=None,
        derandomize=same,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
        print_blob=True,
    )
hypothesis.settings.load_profile("house")


def pytest_configure(config: pytest.Config) -> None:
    """The main process makes the folder of the run's servers before it starts workers.

    Who starts the run in the background of a shell has SIGINT ignored, and every program of the tests would inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line(
        "markers",
        "feature(*names, library): fields and values of the API that the test shows; `library`: why not by a wish",
    )
    if not hasattr(config, "workerinput"):
        home = servers.open_run()
        config.add_cleanup(lambda: servers.close_run(home))


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """SQLAlchemy URL of an empty database of its own for this test; see tests/support/servers.py."""
    yield from _database(request.param, tmp_path_factory)


@pytest.fixture(params=DATABASES)
def ready_database_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same with our tables, and the rows that are there from the start; see tests/support/databases.py."""
    from tests.support.databases import ready

    with ready(request.param, tmp_path_factory.mktemp("database")) as url:
        yield url


@pytest.fixture(params=DATABASES, scope="module")
def module_database_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same, one for all tests of the module."""
    yield from _database(request.param, tmp_path_factory)


def _database(kind: str, folders: pytest.TempPathFactory) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{folders.mktemp('database')}/octavia.db"
    else:
        with servers.server(kind).new_database() as url:
            yield url
