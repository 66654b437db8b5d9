"""`octavia-admin amphora create-spare` and `delete`, on real agents and without a controller beside them."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Admin

pytestmark = pytest.mark.timeout(300)  # many processes, one after the other: on a busy machine that takes minutes


@pytest.fixture
def admin(admin: Admin) -> Admin:
    """The command on a fresh state directory, where nobody dies but who is ended."""
    return admin.calm()


def test_a_spare_is_made_shown_explained_and_removed(admin: Admin) -> None:
    with admin.up():
        made = admin("amphora", "create-spare", "--json").data
        id = made["amphora"]["id"]
        assert (made["operation"]["state"], made["amphora"]["status"]) == ("SUCCEEDED", "READY")
        (line,) = [line for line in admin.inside("amphora", "list").out.splitlines() if id in line]
        assert "READY" in line
        assert "spare" in line
        assert "it is a spare" in admin.inside("why", id).out
        stored = admin("amphora", "create-spare", "--no-wait", "--request-id", "twice", "--json").data
        again = admin("amphora", "create-spare", "--request-id", "twice", "--json").data
        assert again["operation"]["id"] == stored["operation"]["id"]
        for one in (id, again["amphora"]["id"]):
            gone = admin.inside("amphora", "delete", one, "--json").data
            assert gone["amphora"]["status"] == "DELETED"
        assert "no amphora" in admin.inside("amphora", "delete", id, code=3).err
        assert admin.inside("amphora", "list", "--json").data == []


def test_down_with_purge_leaves_no_spare(admin: Admin) -> None:
    with admin.up():
        id = admin("amphora", "create-spare", "--json").data["amphora"]["id"]
        admin.inside("down", "--purge")
    assert admin.inside("amphora", "show", id, "--json").data["status"] == "DELETED"
