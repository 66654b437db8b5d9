"""How often, and how long, a step that failed for now is tried again: by what failed."""

from __future__ import annotations

import attrs

from octavia_core.errors import AmphoraNotReady, AmphoraUnreachable, TransientError
from octavia_core.policy.retry import RetryPolicy
from octavia_core.settings import Settings

__all__ = ["Patience", "PeerUnsure"]


class PeerUnsure(AmphoraUnreachable):
    """One of a pair does not say whether it holds the VIP; a failover decides without it when it goes on so."""


@attrs.frozen(kw_only=True)
class Patience:
    """The policies of one controller.

    Pauses grow from `[engine] step_retry_first`; none is longer than `[engine] step_retry_longest`.

    Attributes:
        otherwise: `[engine] step_*`.
        served: an agent that is asked to do something has served before, or answered at least: `[haproxy_amphora]
            active_connection_*`.
        booting: an agent that says that its machine is not ready, as a network card that was plugged a moment ago takes
            its time: `[haproxy_amphora] connection_*`.
    """

    otherwise: RetryPolicy
    served: RetryPolicy
    booting: RetryPolicy
    failover: RetryPolicy

    @classmethod
    def of(cls, settings: Settings) -> Patience:
        """As configured."""
        engine, amphora = settings.engine, settings.haproxy_amphora

        def agents(attempts: int, pause: float) -> RetryPolicy:
            longest = min(pause, engine.step_retry_longest)
            first = min(engine.step_retry_first, longest)
            return RetryPolicy(attempts=max(1, attempts), first=first, longest=longest)

        return cls(
            otherwise=RetryPolicy(
                attempts=engine.step_attempts, first=engine.step_retry_first, longest=engine.step_retry_longest
            ),
            served=agents(amphora.active_connection_max_retries, amphora.active_connection_retry_interval),
            booting=agents(amphora.connection_max_retries, amphora.connection_retry_interval),
            failover=agents(amphora.failover_connection_max_retries, amphora.failover_connection_retry_interval),
        )

    def after(self, error: TransientError) -> RetryPolicy:
        """The policy for that failure."""
        if isinstance(error, AmphoraNotReady):
            return self.booting
        if isinstance(error, PeerUnsure):
            return self.failover
        return self.served if isinstance(error, AmphoraUnreachable) else self.otherwise
