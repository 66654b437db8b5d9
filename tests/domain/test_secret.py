"""A secret gives its bytes to `reveal` and to nothing else."""

from __future__ import annotations

import copy
import json
import logging
import pickle  # noqa: TID251 - shown to fail

import attrs
import pytest

from octavia_core.domain.secret import CertificateBundle, Secret

WORD = "swordfish"


def test_a_secret_is_in_no_text(caplog):
    secret = Secret(WORD)
    bundle = CertificateBundle(certificate="-", private_key=secret)
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("anybody").warning("%s %r %s", secret, secret, bundle)
    texts = [str(secret), repr(secret), f"{secret}", f"{secret:>20}", repr(bundle), str([secret]), caplog.text]
    assert [text for text in texts if WORD in text] == []
    assert secret.reveal() == WORD.encode()


def test_a_secret_cannot_be_pickled_or_copied():
    secret = Secret(WORD)
    for spill in (pickle.dumps, copy.copy, copy.deepcopy, json.dumps):
        with pytest.raises(TypeError):
            spill(secret)
    with pytest.raises(TypeError):
        pickle.dumps(CertificateBundle(certificate="-", private_key=secret))
    assert not hasattr(secret, "__dict__")


def test_what_goes_wrong_with_a_secret_in_hand_does_not_show_it():
    with pytest.raises(TypeError) as error:
        Secret(WORD) + b"."
    assert WORD not in str(error.value)


def test_secrets_are_equal_by_their_bytes_and_never_equal_to_them():
    assert Secret("a") == Secret(b"a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != b"a"
    assert (bool(Secret("")), bool(Secret("a"))) == (False, True)
    assert attrs.asdict(CertificateBundle(certificate="-", private_key=Secret(WORD)))["private_key"] == Secret(WORD)
