"""The table of features is complete, true and current."""

from __future__ import annotations

from tests.support import features


def test_every_field_of_the_api_is_shown_or_said_to_be_elsewhere():
    said = {*features.shown(), *features.ELSEWHERE}
    assert [name for name in features.expected() if name not in said] == []


def test_nothing_is_said_of_fields_that_do_not_exist():
    known = set(features.expected())
    assert sorted((set(features.shown()) | set(features.ELSEWHERE)) - known) == []
    assert sorted(set(features.shown()) & set(features.ELSEWHERE)) == []


def test_the_page_is_current():
    written = features.PAGE.read_text(encoding="utf-8")
    assert written == features.page(), "write it again with: python -m tests.support.features"
