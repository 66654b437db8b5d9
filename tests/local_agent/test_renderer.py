"""What our own renderer writes is understood: every load balancer is translated, or refused for what cannot be here."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from octavia_core.domain.amphora import Amphora
from octavia_core.domain.tree import LoadBalancer
from octavia_core.domain.vocabulary import AmphoraStatus
from octavia_core.ports.amphora import Delivery
from octavia_core.settings import Settings
from octavia_haproxy.render.config import configure
from octavia_haproxy.render.model import Facts
from octavia_haproxy.render.words import unquote
from octavia_local.agent.changes import compare, content_of
from octavia_local.agent.syntax import Section, read, words
from octavia_local.agent.translate import Document, Limits, Rendered
from octavia_local.agent.wire import Refusal
from tests.support.haproxies import chosen
from tests.support.strategies import load_balancers

AMPHORA = Amphora(id="amphora-1", status=AmphoraStatus.ALLOCATED)
LIMITS = Limits(1000, "127.0.0.1")
slow = settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)


def text_of(load_balancer: LoadBalancer) -> str:
    return configure(Delivery(load_balancer=load_balancer, amphora=AMPHORA), Settings(), Facts()).text or ""


def translated(text: str) -> Rendered | None:
    """None for what is refused rightly."""
    try:
        document = Document(text, LIMITS)
    except Refusal as refusal:
        assert any(known in str(refusal.details) for known in ("PING", "IPv6", "bound a second time")), refusal.details
        return None
    return document.render(lambda _: 0, lambda _: ("127.0.0.1", 9101), lambda _: b"")


def _words(section: Section) -> list[tuple[str, tuple[str, ...]]]:
    return [(line.raw, line.texts) for line in section.lines]


@slow
@given(load_balancer=load_balancers())
def test_words_are_read_as_they_were_written(load_balancer: LoadBalancer) -> None:
    for line in text_of(load_balancer).split("\n"):
        assert [word.text for word in words(line)] == list(unquote(line))


@slow
@given(load_balancer=load_balancers())
def test_every_load_balancer_is_translated_line_by_line(load_balancer: LoadBalancer) -> None:
    text = text_of(load_balancer)
    done = translated(text)
    if done is not None:
        assert done.text.count("\n") == text.count("\n")
        assert "/var/lib/octavia" not in done.text
        assert "/run/rsyslog" not in done.text
        assert compare(content_of(done), content_of(done), ()) == ()
        assert [section[:2] for section in done.sections] == [section[:2] for section in read(done.text)]
        assert [_words(section) for section in done.sections] == [_words(section) for section in read(done.text)]


@slow
@given(load_balancer=load_balancers())
def test_haproxy_accepts_what_was_translated(load_balancer: LoadBalancer, tmp_path: Path) -> None:
    done = translated(text_of(load_balancer))
    if done is None or "frontend" not in done.text:
        return
    bound = done.text.replace("bind fd@0", "bind 127.0.0.1:9")  # a check opens nothing
    (tmp_path / "haproxy.cfg").write_text(bound)
    (tmp_path / "servers-state").write_text("")
    said = subprocess.run(
        [chosen().path, "-c", "-f", "haproxy.cfg"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n"])
def test_nothing_is_a_document_too(text: str) -> None:
    assert translated(text) is not None
