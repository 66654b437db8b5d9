"""Names that controller and agent agree on: files, sections, peers."""

from __future__ import annotations

import base64
import hashlib

__all__ = ["PEER_PORT", "backend_name", "cert_directory", "peer_name", "peers_section", "pem_name", "pool_of"]

PEER_PORT = 1025
"""Where the two HAProxies of a pair exchange their stick tables; upstream's constant, whatever a listener's peer_port says."""


def peer_name(amphora_id: str) -> str:
    """How the agent of that amphora calls its HAProxy (`haproxy -L`): agent API contract 6.1.

    A wrong name is no error to HAProxy: it drops the peers section with a warning.
    """
    # SHA-1 is the agent's choice of a short name; nothing is protected by it.
    digest = base64.b64encode(hashlib.sha1(amphora_id.encode(), usedforsecurity=False).digest())
    name = digest.decode().translate(str.maketrans("+/", "_-")).rstrip("=")
    return "x" + name[1:] if name.startswith("-") else name


def peers_section(load_balancer_id: str) -> str:
    """Name of the peers section."""
    return load_balancer_id.replace("-", "") + "_peers"


def backend_name(pool_id: str, listener_id: str) -> str:
    """Name of the backend of a pool under a listener: one colon, or the agent's statistics fail as a whole (6.3)."""
    return f"{pool_id}:{listener_id}"


def pool_of(backend: str) -> str:
    """The pool of a backend, by the backend's name."""
    return backend.rpartition(":")[0]


def pem_name(text: str) -> str:
    """File name of a PEM text in the amphora: SHA-1 of the text (of the leaf alone for a certificate), agent API 5."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() + ".pem"


def cert_directory(base_cert_dir: str, load_balancer_id: str) -> str:
    """Where the agent keeps the PEM files of a load balancer."""
    return f"{base_cert_dir}/{load_balancer_id}"
