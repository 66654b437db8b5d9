"""What the agent answers: upstream's REST API, version 1.0 (agent API reference), one request at a time; but who only asks
whether it lives does not wait for a change that is under way.

Where an amphora cannot do what a call asks for, the answer says so in one sentence: keepalived (`vrrp/*`) needs a network
namespace (400 on loopback), SCTP needs a kernel that has it (400), UDP needs nginx or nft (400), and nobody here filters
packets (404 for interface rules, as agents without that call answer).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import ssl
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

from octavia_local.agent import machine
from octavia_local.agent.balancer import Balancer
from octavia_local.agent.generation import remove_tree
from octavia_local.agent.plugs import Plugs
from octavia_local.agent.root import AGENT_CONF, AgentConf, BadBoot, Root, log, read_conf
from octavia_local.agent.udp import UdpCalls
from octavia_local.agent.vrrp import NoVrrp
from octavia_local.agent.wire import Refusal, Request, Response, answer, framework_error, md5

__all__ = ["APPLIED", "OFFERS", "Api", "Fences", "HaproxyFact", "Wires"]

API_VERSION = "1.0"
OFFERS = ("apply",)
"""Calls of ours beyond upstream's, named by `GET /info` so that a controller need not try them."""
APPLIED = "octavia-applied.pem"
"""The file beside the certificates in which our controllers note the ETag of the configuration that runs; `apply` does it
for them."""
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:-]{0,254}\Z")
_FENCE = re.compile(r"(.{1,255}):([0-9]{1,18})\Z")
_FENCED = "x-octavia-fence"
_SIGNS_OF_LIFE = ("/", "/1.0/info")
"""What health managers ask an amphora whose heartbeats they miss. A part of a change (with a fence) waits for its turn."""
_NO_RULES = "a local amphora has no packet filter; it knows no interface rules"


class HaproxyFact(NamedTuple):
    """The HAProxy of this agent: its version, or what is wrong with it in one sentence."""

    path: str
    version: str
    problem: str | None = None


class Wires(NamedTuple):
    """What connects this amphora: its interfaces, keepalived, and what serves datagrams."""

    plugs: Plugs
    vrrp: NoVrrp
    udp: UdpCalls


class Fences:
    """Highest fence seen per operation: header `X-Octavia-Fence: <operation id>:<fence>`, our own addition to the API.

    A controller that lost its operation to another one may still be sending; it is refused from the moment the other
    one has spoken. Requests without the header are let through: upstream controllers send none.
    """

    _REMEMBERED = 4096

    def __init__(self) -> None:
        self._highest: OrderedDict[str, int] = OrderedDict()

    def check(self, header: str | None) -> None:
        """Remember this fence.

        Raises:
            Refusal: 409, a higher one was seen for the same operation; 400, it cannot be read.
        """
        if header is None:
            return
        match = _FENCE.match(header)
        if match is None:
            raise Refusal(400, "Invalid Request", "X-Octavia-Fence must be <operation id>:<integer>")
        operation, fence = match[1], int(match[2])
        highest = self._highest.get(operation, fence)
        if fence < highest:
            raise Refusal(
                409, "Stale fence", f"operation {operation} has gone on with fence {highest}, this is {fence}"
            )
        self._highest[operation] = fence
        self._highest.move_to_end(operation)
        while len(self._highest) > self._REMEMBERED:
            self._highest.popitem(last=False)


class Api:
    """Answers requests.

    Args:
        root: the amphora's file system.
        conf: amphora-agent.conf as it was at start.
        haproxy: what runs the load balancers.
        make_balancer: makes the one of an id.
        wires: interfaces and keepalived.
        configured: told the new configuration after PUT /config.
    """

    def __init__(
        self,
        root: Root,
        conf: AgentConf,
        haproxy: HaproxyFact,
        make_balancer: Callable[[str], Balancer],
        wires: Wires,
        configured: Callable[[AgentConf], None],
    ) -> None:
        self._root, self._conf, self._haproxy = root, conf, haproxy
        self._make_balancer, self._configured = make_balancer, configured
        self._plugs, self._vrrp, self._udp = wires
        self._fences = Fences()
        self._serving = threading.Lock()
        self.balancers: dict[str, Balancer] = {}
        self.last_asked = time.monotonic()
        self._routes: tuple[tuple[str, tuple[str, ...], Callable[..., Response]], ...] = tuple(
            (method, tuple(path.split("/")), function)
            for method, path, function in (
                ("GET", "", lambda _: answer(200, {"api_version": API_VERSION})),
                ("GET", "1.0/info", self._info),
                ("GET", "1.0/details", self._details),
                ("GET", "1.0/listeners", self._listeners),
                ("PUT", "1.0/loadbalancer/*/*/haproxy", self._upload),
                ("PUT", "1.0/loadbalancer/*/*/apply", self._apply),
                ("GET", "1.0/loadbalancer/*/haproxy", self._download),
                ("PUT", "1.0/loadbalancer/*/*", self._act),
                ("DELETE", "1.0/listeners/*", self._delete),
                ("PUT", "1.0/listeners/*/*/udp_listener", self._udp.upload),
                ("GET", "1.0/listeners/*/udp_listener", self._udp.download),
                ("PUT", "1.0/loadbalancer/*/certificates/*", self._put_certificate),
                ("GET", "1.0/loadbalancer/*/certificates/*", self._get_certificate),
                ("DELETE", "1.0/loadbalancer/*/certificates/*", self._delete_certificate),
                ("POST", "1.0/plug/vip/*", self._plugs.vip),
                ("POST", "1.0/plug/network", self._plugs.network),
                ("PUT", "1.0/vrrp/upload", self._vrrp.upload),
                ("PUT", "1.0/vrrp/*", self._vrrp.act),
                ("GET", "1.0/interface/*", self._interface),
                ("PUT", "1.0/interface/*/rules", self._no_rules),
                ("PUT", "1.0/certificate", self._rotate),
                ("PUT", "1.0/config", self._configure),
            )
        )

    def handle(self, request: Request) -> Response:
        """Answer a request; whatever goes wrong is an answer too."""
        whether_it_lives = request.method == "GET" and request.path in _SIGNS_OF_LIFE and _FENCED not in request.headers
        with contextlib.nullcontext() if whether_it_lives else self._serving:
            self.last_asked = time.monotonic()
            try:
                self._fences.check(request.headers.get(_FENCED))
                return self._route(request)
            except Refusal as refusal:
                return refusal.response
            except OSError as error:  # a full disk, a folder that was made unreadable
                log(f"{request.method} {request.path}: {error}")
                return answer(500, {"message": "Internal Server Error", "details": _where(error, self._root.path)})
            except Exception as error:  # noqa: BLE001 - a fault here must not end the agent, and leaves no traceback outside
                import traceback

                log(f"{request.method} {request.path}: {traceback.format_exc()}")
                return framework_error(500, f"the agent failed ({type(error).__name__}); see agent.log")

    def restore(self) -> None:
        """Run again what ran when an earlier agent ended on this root; what cannot be is logged."""
        self._udp.restore()
        base = self._root.inside(self._conf.base_path)
        for name in sorted(os.listdir(base)) if os.path.isdir(base) else ():
            if os.path.isfile(f"{base}/{name}/haproxy.cfg"):
                try:
                    balancer = self._balancer(name)
                    if not balancer.was_stopped():
                        balancer.start()
                except (Refusal, OSError) as error:
                    log(f"load balancer {name} is not running: {error}")

    def _route(self, request: Request) -> Response:
        parts = request.path.strip("/").split("/")
        allowed: list[str] = []
        for method, pattern, function in self._routes:
            if len(pattern) == len(parts) and all(p in ("*", part) for p, part in zip(pattern, parts, strict=True)):
                if method == request.method:
                    variables = [part for p, part in zip(pattern, parts, strict=True) if p == "*"]
                    if not all(_SAFE.match(one) for one in variables if pattern[1] not in ("plug", "interface")):
                        break
                    return function(request, *variables)
                allowed.append(method)
        if allowed:
            refused = framework_error(405, "The method is not allowed for the requested URL.")
            return refused._replace(headers=(("Allow", ", ".join(sorted(set(allowed)))),))
        return framework_error(404, "The requested URL was not found on the server.")

    # -- facts -----------------------------------------------------------------------------------------------------

    def _versions(self) -> dict[str, Any]:
        self._require_haproxy()
        return {
            "hostname": machine.hostname(),
            "haproxy_version": self._haproxy.version,
            "api_version": API_VERSION,
            "keepalived_version": "",
            "ipvsadm_version": "",
        }

    def _info(self, _: Request) -> Response:
        return answer(200, {
            **self._versions(), "offers": OFFERS, "datagram_listeners": len(self._udp.statuses()),
        })  # fmt: skip

    def _details(self, _: Request) -> Response:
        listeners = sorted(name for balancer in self.balancers.values() for name, _ in self._listeners_of(balancer))
        listeners += [name for name, _ in self._udp.statuses()]
        return answer(200, {
            **self._versions(),
            "networks": self._plugs.networks(),
            "active": True,
            "haproxy_count": sum(balancer.processes for balancer in self.balancers.values()),
            "lvs_listener_process_count": self._udp.processes,
            **machine.details(),
            "active_tuned_profiles": "",
            "topology": "SINGLE",
            "topology_status": "OK",
            "listeners": listeners,
            "packages": {},
        })  # fmt: skip

    def _listeners(self, _: Request) -> Response:
        found = [
            {"status": "ACTIVE", "uuid": name, "type": kind}
            for balancer in self.balancers.values()
            for name, kind in self._listeners_of(balancer)
        ]
        found += [{"status": status, "uuid": name, "type": "UDP"} for name, status in self._udp.statuses()]
        return answer(200, found)

    @staticmethod
    def _listeners_of(balancer: Balancer) -> tuple[tuple[str, str], ...]:
        try:
            return balancer.document().listeners
        except FileNotFoundError:
            return ()

    # -- load balancers --------------------------------------------------------------------------------------------

    def _require_haproxy(self) -> None:
        if self._haproxy.problem is not None:
            raise Refusal(500, "HAProxy cannot be used", self._haproxy.problem)

    def _balancer(self, id: str) -> Balancer:
        if id not in self.balancers:
            self.balancers[id] = self._make_balancer(id)
        return self.balancers[id]

    def _known(self, id: str) -> Balancer:
        balancer = self.balancers.get(id)
        try:
            if balancer is not None:
                balancer.received()
                return balancer
        except FileNotFoundError:
            pass
        raise Refusal(404, "Loadbalancer Not Found", f"No loadbalancer with UUID: {id}")

    def _upload(self, request: Request, amphora: str, id: str) -> Response:
        self._require_haproxy()
        self._balancer(id).upload(request.body, amphora)
        return answer(202, {"message": "OK"}, etag=md5(request.body))

    def _apply(self, request: Request, amphora: str, id: str) -> Response:
        """Our own: run a configuration and keep it, in one request (`upload`, `reload` and reading back are three).

        `If-Match: ETAG` and `X-Octavia-Haproxy: VERSION` are what the controller takes for granted: the configuration that
        runs, and HAProxy's version. It was rendered from them, so when they are not so, nothing is done (412).
        """
        self._require_haproxy()
        held = self._applied(id)
        wanted, version = request.headers.get("if-match"), request.headers.get("x-octavia-haproxy")
        if wanted not in (None, held) or version not in (None, self._haproxy.version):
            raise Refusal(412, "Precondition Failed", f"another configuration of {id} runs, or another HAProxy")
        if wanted is not None and self._udp.statuses():  # they are part of what the controller has to compare
            raise Refusal(412, "Precondition Failed", "this amphora has UDP listeners, too")
        balancer = self._balancer(id)
        if held == md5(request.body) and balancer.running:
            return answer(200, {"message": "OK", "changed": False}, etag=held)
        marker = self._certificate_path(id, APPLIED)
        self._unlink(marker)
        try:
            fresh = balancer.apply(request.body, amphora)
        except Refusal:
            if held is not None:
                self._root.write(marker, held.encode())
            raise
        kept = md5(balancer.received())
        self._root.write(marker, kept.encode())
        self._tell_serving()
        if fresh:
            self._plugs.announce()
        return answer(200, {"message": "OK", "changed": True}, etag=kept)

    def _applied(self, id: str) -> str | None:
        """The ETag of what is kept and runs; None when either is not known."""
        try:
            kept = md5(self._known(id).received())
            return kept if self._root.read(self._certificate_path(id, APPLIED)) == kept.encode() else None
        except (Refusal, FileNotFoundError):
            return None

    def _download(self, _: Request, id: str) -> Response:
        data = self._known(id).received()
        return Response(200, data, "text/plain; charset=UTF-8", (("ETag", md5(data)),))

    def _act(self, _: Request, id: str, action: str) -> Response:
        word = action.lower()
        if word not in ("start", "stop", "reload"):
            raise Refusal(400, "Invalid Request", f"Unknown action: {action}")
        if id not in self.balancers and self._udp.knows(id):
            done = self._udp.act(id, word)
            self._tell_serving()
            self._plugs.announce()
            return done
        balancer = self._known(id)
        if word == "stop":
            balancer.stop()
            self._tell_serving()
            return answer(202, {"message": "OK", "details": f"Listener {id} stoped"})  # upstream's spelling
        self._require_haproxy()
        was_running = balancer.running
        try:
            balancer.reload()
        except Refusal as refusal:
            raise Refusal(500, f"Error {word}ing haproxy", refusal.details) from refusal
        self._tell_serving()
        self._plugs.announce()
        if was_running and word == "reload":
            return answer(202, {"message": "OK", "details": f"Listener {id} reloaded"})
        return answer(202, {
            "message": "OK",
            "details": f"Configuration file is valid\nhaproxy daemon for {id} started",
        })  # fmt: skip

    def _tell_serving(self) -> None:
        """Keepalived's check asks every HAProxy that should serve."""
        sockets = [path for one in self.balancers.values() if (path := one.stats_path) is not None]
        self._vrrp.serving(sockets, datagrams=self._udp.serving)

    def _delete(self, _: Request, id: str) -> Response:
        balancer = self.balancers.get(id)
        if balancer is not None:
            balancer.delete()
            remove_tree(self._root.inside(f"{self._conf.base_cert_dir}/{id}"))
            del self.balancers[id]
        else:
            self._udp.delete(id)
        self._tell_serving()
        return answer(200, {"message": "OK"})

    # -- certificates of listeners and pools -------------------------------------------------------------------------

    def _certificate_path(self, id: str, filename: str) -> str:
        if not filename.endswith(".pem"):
            raise Refusal(400, "Filename has wrong format")
        return f"{self._conf.base_cert_dir}/{id}/{filename}"

    def _put_certificate(self, request: Request, id: str, filename: str) -> Response:
        self._root.write(self._certificate_path(id, filename), request.body)
        return answer(200, {"message": "OK"}, etag=md5(request.body))

    def _get_certificate(self, _: Request, id: str, filename: str) -> Response:
        try:
            digest = md5(self._root.read(self._certificate_path(id, filename)))
        except FileNotFoundError:
            raise Refusal(404, "Certificate Not Found", f"No certificate with filename: {filename}") from None
        return answer(200, {"md5sum": digest}, etag=digest)

    def _delete_certificate(self, _: Request, id: str, filename: str) -> Response:
        self._unlink(self._certificate_path(id, filename))
        return answer(200, {"message": "OK"})

    def _unlink(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # gone is what was asked for
            os.unlink(self._root.inside(path))

    # -- what a loopback amphora does not have -------------------------------------------------------------------------

    def _interface(self, _: Request, address: str) -> Response:
        return answer(200, {"message": "OK", "interface": self._plugs.interface(address)})

    def _no_rules(self, _: Request, address: str) -> Response:
        return framework_error(404, _NO_RULES)

    # -- the agent itself ------------------------------------------------------------------------------------------

    def _rotate(self, request: Request) -> Response:
        """Upstream takes anything and is locked out by a bad PEM; here a bad one is refused and the old one stays."""
        path = self._root.write(self._conf.server_cert + ".candidate", request.body)
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path, password="")
        except (ssl.SSLError, OSError, ValueError) as error:
            os.unlink(path)
            raise Refusal(
                400, "Invalid certificate", "the body is not a PEM certificate with its private key"
            ) from error
        os.replace(path, self._root.inside(self._conf.server_cert))
        return answer(202, {"message": "OK"})

    def _configure(self, request: Request) -> Response:
        try:
            conf = read_conf(request.body)
        except BadBoot as error:
            raise Refusal(500, "Unable to update amphora-agent configuration.", str(error)) from error
        self._root.write(AGENT_CONF, request.body)
        conf.amphora_id = self._conf.amphora_id  # not mutable, as upstream
        self._plugs.configure(conf)
        self._configured(conf)
        return answer(202, {"message": "OK"})


def _where(error: OSError, root: str) -> str:
    """What is wrong, and with what. A file that cannot be written to the end does not say its name."""
    what = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{what}: free some in {root}"
    return f"{what}: {error.filename}" if error.filename else what
