"""The one-minute cache: one fetch for many, nothing beyond its time, and what an outage changes."""

from __future__ import annotations

import threading

import pytest
import trustme
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from octavia_core.certs.cache import Certificates
from octavia_core.domain.secret import Secret
from octavia_core.errors import SecretMissing, TransientError
from octavia_core.testing.clock import VirtualClock
from octavia_core.testing.outside import FaultKind, SimulatedCloud
from octavia_core.testing.simulator import SimulatedSecrets

ISSUED = trustme.CA().issue_cert("www.example.org")
PAYLOADS = {"certificate": ISSUED.cert_chain_pems[0].bytes(), "private_key": ISSUED.private_key_pem.bytes()}


class Bench:
    """A store whose fetches are counted, a clock, and the cache between them."""

    def __init__(self, **how):
        self.clock = VirtualClock()
        self.cloud = SimulatedCloud(clock=self.clock)
        self.store = SimulatedSecrets(self.cloud)
        self.store.put("web", PAYLOADS)
        self.certificates = Certificates(self.store, clock=self.clock, **how)

    def fetches(self, ref="web"):
        return len(self.cloud.calls("secrets.fetch", ref))


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.cloud.close()


def test_a_thousand_listeners_on_one_secret_cost_one_fetch(bench):
    bundles = {bench.certificates.bundle("web") for _ in range(1000)}
    assert len(bundles) == 1
    assert bench.fetches() == 1


class SlowStore:
    """Holds every fetch until it is let go."""

    time_limit = 20.0

    def __init__(self, outcome):
        self.outcome = outcome
        self.entered, self.go = threading.Event(), threading.Event()
        self.fetches = 0

    def fetch(self, ref):
        self.fetches += 1
        self.entered.set()
        assert self.go.wait(20)
        if isinstance(self.outcome, BaseException):
            raise type(self.outcome)(*self.outcome.args)
        return {name: Secret(value) for name, value in self.outcome.items()}


def compete(certificates, store, threads=50):
    """All ask at once, while the first one fetches; what each of them saw."""
    seen, waiting = [], threading.Barrier(threads + 1)

    def ask():
        waiting.wait(20)
        try:
            seen.append(certificates.bundle("web").names)
        except Exception as error:  # the test looks at what kind it is
            seen.append(error)

    running = [threading.Thread(target=ask) for _ in range(threads)]
    for thread in running:
        thread.start()
    waiting.wait(20)
    assert store.entered.wait(20)
    store.go.set()
    for thread in running:
        thread.join(20)
    return seen


def test_concurrent_misses_share_one_fetch():
    store = SlowStore(PAYLOADS)
    seen = compete(Certificates(store), store)
    assert seen == [("www.example.org",)] * 50
    assert store.fetches == 1


@pytest.mark.parametrize("error", [SecretMissing("no secret 'web'"), TransientError("the store is away")])
def test_concurrent_misses_share_one_failure_each_with_an_error_of_its_own(error):
    store = SlowStore(error)
    seen = compete(Certificates(store), store)
    assert {type(one) for one in seen} == {type(error)}
    assert {str(one) for one in seen} == {str(error)}
    assert len({id(one) for one in seen}) == len(seen)


def test_a_fetch_that_is_broken_off_leaves_nobody_waiting():
    store = SlowStore(KeyboardInterrupt())
    certificates = Certificates(store)
    outcomes = []

    def lead():
        with pytest.raises(KeyboardInterrupt):
            certificates.bundle("web")

    leader = threading.Thread(target=lead)
    leader.start()
    assert store.entered.wait(20)

    def follow():
        try:
            certificates.bundle("web")
        except TransientError as error:
            outcomes.append(error)
        except KeyboardInterrupt:
            outcomes.append(None)  # it came after the first one had ended, and led itself

    follower = threading.Thread(target=follow)
    follower.start()
    store.go.set()
    leader.join(20)
    follower.join(20)
    assert len(outcomes) == 1


def test_after_its_minute_a_value_is_fetched_again(bench):
    bench.certificates.bundle("web")
    bench.clock.advance(59.9)
    bench.certificates.bundle("web")
    assert bench.fetches() == 1
    bench.clock.advance(0.1)
    bench.certificates.bundle("web")
    assert bench.fetches() == 2


def test_an_old_value_is_served_only_while_the_store_is_away_and_is_marked(bench, caplog):
    bundle = bench.certificates.bundle("web")
    bench.clock.advance(120)
    bench.cloud.fail("secrets.fetch", times=1000)
    assert bench.certificates.stale() == {}
    assert bench.certificates.bundle("web") == bundle
    assert bench.certificates.stale() == {"web": 120.0}
    assert "goes on being used" in caplog.text
    fetches = bench.fetches()
    for _ in range(100):
        bench.certificates.bundle("web")
    assert bench.fetches() == fetches, "a store that is away is not asked by every listener"
    bench.clock.advance(600)
    with pytest.raises(TransientError):
        bench.certificates.bundle("web")
    assert bench.certificates.stale() == {}


def test_a_store_that_is_back_is_asked_soon(bench):
    bench.certificates.bundle("web")
    bench.clock.advance(120)
    bench.cloud.fail("secrets.fetch")
    bench.certificates.bundle("web")
    bench.clock.advance(5)
    bench.certificates.bundle("web")
    assert bench.certificates.stale() == {}
    assert bench.fetches() == 3


def test_a_secret_that_was_deleted_is_missing_whatever_is_cached(bench):
    bench.certificates.bundle("web")
    bench.store.remove("web")
    bench.clock.advance(60)
    with pytest.raises(SecretMissing):
        bench.certificates.bundle("web")
    bench.cloud.fail("secrets.fetch")
    with pytest.raises(TransientError):
        bench.certificates.bundle("web")


def test_a_failure_is_not_remembered(bench):
    bench.cloud.fail("secrets.fetch", kind=FaultKind.MISSING)
    with pytest.raises(SecretMissing):
        bench.certificates.bundle("web")
    assert bench.certificates.bundle("web").names


def test_nothing_is_kept_where_no_time_is_given():
    bench = Bench(seconds=0)
    bench.certificates.bundle("web")
    bench.certificates.bundle("web")
    assert bench.fetches() == 2
    bench.cloud.close()


def test_old_values_leave_the_memory_when_nobody_asks(bench):
    bench.certificates.bundle("web")
    bench.clock.advance(600)
    bench.certificates.forget()
    assert "0 bundles" in repr(bench.certificates)


def test_who_wants_a_young_value_gets_a_fetch_of_its_own_and_all_others_share_it(bench):
    bench.certificates.bundle("web")
    bench.clock.advance(30)
    renewed = trustme.CA().issue_cert("renewed.example.org")
    pems = {"certificate": renewed.cert_chain_pems[0].bytes(), "private_key": renewed.private_key_pem.bytes()}
    bench.store.put("web", pems)
    assert bench.certificates.bundle("web").names == ("www.example.org",)
    asked = bench.clock.monotonic()
    bench.clock.advance(2)
    for _ in range(1000):  # listeners, amphorae of a pair, attempts
        younger_than = bench.clock.monotonic() - asked
        assert bench.certificates.bundle("web", younger_than=younger_than).names == ("renewed.example.org",)
    assert bench.certificates.bundle("web").names == ("renewed.example.org",)
    assert bench.fetches() == 2


def test_who_wants_a_young_value_gets_no_old_one_while_the_store_is_away(bench):
    bench.certificates.bundle("web")
    bench.clock.advance(30)
    bench.cloud.fail("secrets.fetch", times=1000)
    with pytest.raises(TransientError):
        bench.certificates.bundle("web", younger_than=10)
    assert bench.certificates.bundle("web", younger_than=40)
    assert bench.certificates.bundle("web"), "the copy stays for those who take it"


def test_a_fetch_that_began_too_early_is_waited_for_and_not_taken():
    clock = VirtualClock()
    store = SlowStore(PAYLOADS)
    certificates = Certificates(store, clock=clock)
    leader = threading.Thread(target=lambda: certificates.bundle("web"), daemon=True)
    leader.start()
    assert store.entered.wait(20)
    clock.advance(5)
    got = []
    late = threading.Thread(target=lambda: got.append(certificates.bundle("web", younger_than=1)), daemon=True)
    late.start()
    store.go.set()
    leader.join(20)
    late.join(20)
    assert (len(got), store.fetches) == (1, 2)


def test_nothing_is_in_the_repr(bench):
    bundle = bench.certificates.bundle("web")
    bench.store.put("ca", {"payload": PAYLOADS["certificate"]})
    assert "BEGIN CERTIFICATE" in bench.certificates.payload("ca").text
    shown = repr(bench.certificates) + repr(vars(bench.certificates))
    assert "BEGIN" not in shown
    assert "PRIVATE" not in repr(bundle)


class CacheLaws(RuleBasedStateMachine):
    """Whatever happens, a value given out is younger than a minute, or the store is away and it is younger than ten."""

    @initialize()
    def begin(self):
        self.bench = Bench()
        self.away = False
        self.fetched_at = None

    @rule(seconds=st.floats(min_value=0, max_value=400))
    def time_passes(self, seconds):
        self.bench.clock.advance(seconds)

    @rule(away=st.booleans())
    def the_store_goes_or_comes_back(self, away):
        self.away = away
        self.bench.cloud.heal()
        if away:
            self.bench.cloud.fail("secrets.fetch", times=10_000)

    @rule()
    def ask(self):
        before = self.bench.fetches()
        now = self.bench.clock.monotonic()
        try:
            self.bench.certificates.bundle("web")
        except TransientError:
            assert self.away
            assert self.fetched_at is None or now - self.fetched_at >= 600
            return
        if self.bench.fetches() > before and not self.away:
            self.fetched_at = now
        age = now - self.fetched_at
        marked = self.bench.certificates.stale()
        assert age < 60 or (age < 600 and "web" in marked)

    @invariant()
    def what_is_marked_is_old(self):
        assert all(60 <= age < 600 for age in self.bench.certificates.stale().values())

    def teardown(self):
        self.bench.cloud.close()


TestCacheLaws = CacheLaws.TestCase
TestCacheLaws.settings = hypothesis_settings(max_examples=60, stateful_step_count=30, deadline=None)
