"""What people type: one or two examples of each command, shown below its --help and on docs/reference/cli.md.

A test parses every line, so an option that is renamed cannot stay behind here.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["EXAMPLES"]

_SHARED: Mapping[str, tuple[str, ...]] = {
    "listener": ("web:80", "--name plain"),
    "pool": ("web", "--algorithm LEAST_CONNECTIONS"),
    "member": ("10.0.0.1:80", "--weight 0"),
    "monitor": ("web", "--delay 2 --check-timeout 1"),
    "l7policy": ("no-admin", "--position 1"),
    "l7rule": ("3f5a0c1e-8f0b-4a3e-9a54-5f0b7c1d2e3f", "--value /private"),
}
"""Group -> how one of them is named, and a change of it."""

_OWN: Mapping[str, tuple[str, ...]] = {
    "demo": ("demo", "demo --keep --state /tmp/show"),
    "up": ("up", "up --quiet --log-level INFO --state /var/lib/octavia"),
    "down": ("down", "down --purge --timeout 120"),
    "orphans": ("orphans", "orphans --json"),
    "plugins": ("plugins",),
    "why": ("why web", "why web --config-file /etc/octavia/octavia.conf"),
    "timeline": ("timeline web",),
    "events": ("events web", "events --follow --json", "events --after 1200"),
    "simulate": ("simulate host-dies", "simulate partition --share 0.3 --amphorae 500 --json"),
    "config show": ("config show", "config show --all --config-file /etc/octavia/octavia.conf"),
    "config check": ("config check", "config check --config-dir /etc/octavia/octavia.conf.d"),
    "config authorities": ("config authorities /etc/octavia/authority",),
    "db upgrade": ("db upgrade --config-file /etc/octavia/octavia.conf",),
    "db check": ("db check",),
    "lb create": (
        "lb create --name web --listener HTTP:80 --member 10.0.0.1:80 --member '10.0.0.2:80 weight=5'",
        "lb create --name both --listener HTTP:80 --member 10.0.0.1:80 --additional-vip any --additional-vip 10.0.1.9",
        "lb create --name shop --listener TERMINATED_HTTPS:443 --cert ./shop.pem --member 10.0.0.1:80 --monitor HTTP:/healthz",
    ),
    "lb list": ("lb list", "lb list --json"),
    "lb show": ("lb show web",),
    "lb set": ("lb set web --description 'the shop' --disable",),
    "lb delete": ("lb delete web", "lb delete web --if-exists --no-wait"),
    "lb failover": ("lb failover web --timeout 60",),
    "lb apply": ("lb apply -f web.toml", "lb apply -f - --json"),
    "lb history": ("lb history web",),
    "listener create": (
        "listener create web HTTP:8080 --pool servers",
        "listener create web TCP:5432 --member 10.0.0.7:5432 --allowed-cidrs 10.0.0.0/8",
    ),
    "pool create": ("pool create web --listener web:80 --member 10.0.0.1:80 --monitor TCP",),
    "member create": ("member create web 10.0.0.3:80 --weight 5", "member create web '[2001:db8::3]:80' --backup"),
    "member set-all": ("member set-all web 10.0.0.1:80 '10.0.0.2:80 weight=5'",),
    "monitor create": ("monitor create web HTTP:/healthz --delay 2 --check-timeout 1",),
    "l7policy create": (
        "l7policy create web:80 REJECT --rule 'PATH STARTS_WITH /admin'",
        "l7policy create web:80 REDIRECT_TO_POOL --pool api --rule 'HEADER:X-Env EQUAL_TO beta'",
    ),
    "l7rule create": ("l7rule create no-admin PATH /internal --compare-type STARTS_WITH",),
    "amphora list": ("amphora list", "amphora list web --json"),
    "amphora show": ("amphora show 9d0c4a43-1d15-5cf2-9a55-2c2f3c0e3a52",),
    "amphora failover": ("amphora failover 9d0c4a43-1d15-5cf2-9a55-2c2f3c0e3a52",),
    "amphora create-spare": ("amphora create-spare", "amphora create-spare --no-wait --json"),
    "amphora delete": ("amphora delete 9d0c4a43-1d15-5cf2-9a55-2c2f3c0e3a52",),
    "governor show": ("governor show",),
    "governor pause": ("governor pause --reason 'upgrade of the network, back at noon'",),
    "governor resume": ("governor resume",),
    "health show": ("health show --config-file /etc/octavia/octavia.conf",),
    "health top": ("health top --every 1", "health top --count 1 --json"),
    "operation list": ("operation list web --open",),
    "operation show": ("operation show 27361fa4-09e0-42f9-9429-ec5f4e73d2a2",),
    "operation cancel": ("operation cancel 27361fa4-09e0-42f9-9429-ec5f4e73d2a2",),
    "operation retry": ("operation retry 27361fa4-09e0-42f9-9429-ec5f4e73d2a2",),
    "operation release": ("operation release 27361fa4-09e0-42f9-9429-ec5f4e73d2a2 --yes",),
    "heartbeat-key show": ("heartbeat-key show --config-file /etc/octavia/octavia.conf",),
    "heartbeat-key rotate": ("heartbeat-key rotate --config-file /etc/octavia/octavia.conf",),
    "controllers show": ("controllers show --config-file /etc/octavia/octavia.conf",),
    "controllers rotate": ("controllers rotate --config-file /etc/octavia/octavia.conf",),
}


def _all() -> Mapping[str, tuple[str, ...]]:
    found = dict(_OWN)
    for group, (name, change) in _SHARED.items():
        found[f"{group} list"] = (f"{group} list web",)
        found[f"{group} show"] = (f"{group} show {name}",)
        found[f"{group} set"] = (f"{group} set {name} {change}",)
        found[f"{group} delete"] = (f"{group} delete {name}",)
    return found


EXAMPLES: Mapping[str, tuple[str, ...]] = _all()
"""Words of a command -> what may follow `octavia-admin`."""
