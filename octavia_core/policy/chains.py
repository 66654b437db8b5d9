"""Secrets that hold one certificate and different intermediates. Pure.

An amphora's agent names the file of a certificate after the certificate alone, so all who show it share one file, with
one chain. No client of any of them may miss an intermediate that its secret holds; so the file has those of all.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from octavia_core.domain.secret import CertificateBundle

__all__ = ["joined"]


def joined(bundles: Mapping[str, CertificateBundle]) -> tuple[dict[str, CertificateBundle], dict[str, str]]:
    """The same bundles with one chain for each certificate, and what to say of those whose own is another one.

    The longest chain comes first, then what others have besides. An intermediate too many does no harm: clients look
    for the ones they need.

    Args:
        bundles: reference -> what its secret holds.
    """
    sharing: dict[str, list[str]] = {}
    for ref, bundle in bundles.items():
        sharing.setdefault(bundle.certificate, []).append(ref)
    found, said = dict(bundles), dict[str, str]()
    for refs in sharing.values():
        if len(refs) == 1:
            continue
        refs.sort(key=lambda ref: (-len(bundles[ref].intermediates), ref))
        chain = tuple(dict.fromkeys(text for ref in refs for text in bundles[ref].intermediates))
        whole = attrs.evolve(bundles[refs[0]], intermediates=chain)
        for ref in refs:
            found[ref] = whole
            if set(bundles[ref].intermediates) != set(chain):
                others = ", ".join(repr(other) for other in refs if other != ref)
                said[ref] = (
                    f"secret {ref!r} holds the same certificate as {others}, with other intermediates; "
                    "an amphora has one file for all of them, so it is served with those of all"
                )
    return found, said
