"""One certificate in several secrets: no client misses an intermediate that its secret holds, and it is said."""

from __future__ import annotations

import itertools

from octavia_core.domain.secret import CertificateBundle, Secret
from octavia_core.policy.chains import joined


def bundle(leaf: str, *intermediates: str) -> CertificateBundle:
    return CertificateBundle(certificate=leaf, private_key=Secret(f"key of {leaf}"), intermediates=intermediates)


def test_each_is_served_with_the_intermediates_of_all_whatever_their_order() -> None:
    given = {"bare": bundle("www"), "full": bundle("www", "one", "root"), "other": bundle("www", "two")}
    for order in itertools.permutations(given):
        found, said = joined({ref: given[ref] for ref in order})
        assert {one.intermediates for one in found.values()} == {("one", "root", "two")}
        assert len(set(found.values())) == 1
        assert set(said) == {"bare", "full", "other"}
        assert said["bare"].startswith("secret 'bare' holds the same certificate as 'full', 'other', with other inter")


def test_nothing_is_said_of_one_that_has_all_of_them_and_nothing_changes_for_others() -> None:
    given = {"bare": bundle("www"), "full": bundle("www", "one"), "again": bundle("www", "one"), "api": bundle("api")}
    found, said = joined(given)
    assert set(said) == {"bare"}
    assert found["bare"].intermediates == ("one",)
    assert {ref: found[ref] for ref in ("full", "again", "api")} == {
        ref: given[ref] for ref in ("full", "again", "api")
    }
    assert joined({}) == ({}, {})
