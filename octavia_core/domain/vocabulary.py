"""The words of the field, spelt as upstream Octavia 19 spells them in its tables and messages."""

from __future__ import annotations

from enum import StrEnum

__all__ = [
    "Algorithm",
    "AmphoraStatus",
    "ClientAuthentication",
    "CompareType",
    "Kind",
    "L7Action",
    "L7RuleType",
    "ListenerProtocol",
    "MonitorType",
    "Operating",
    "PersistenceType",
    "PoolProtocol",
    "Provisioning",
    "Role",
    "Topology",
]


class Kind(StrEnum):
    """The kinds of rows that have a life of their own. The values are upstream's table names."""

    LOAD_BALANCER = "load_balancer"
    LISTENER = "listener"
    POOL = "pool"
    MEMBER = "member"
    HEALTH_MONITOR = "health_monitor"
    L7POLICY = "l7policy"
    L7RULE = "l7rule"
    AMPHORA = "amphora"

    @property
    def words(self) -> str:
        """The kind as a person says it: 'load balancer', 'L7 policy'."""
        return {"l7policy": "L7 policy", "l7rule": "L7 rule"}.get(self.value, self.value.replace("_", " "))


class Provisioning(StrEnum):
    """Is what was asked for in place? (provisioning_status)"""

    ACTIVE = "ACTIVE"
    PENDING_CREATE = "PENDING_CREATE"
    PENDING_UPDATE = "PENDING_UPDATE"
    PENDING_DELETE = "PENDING_DELETE"
    DELETED = "DELETED"
    ERROR = "ERROR"

    @property
    def pending(self) -> bool:
        """True while an operation is in progress."""
        return self.value.startswith("PENDING")


class Operating(StrEnum):
    """Does it work right now? (operating_status)"""

    ONLINE = "ONLINE"
    OFFLINE = "OFFLINE"
    DEGRADED = "DEGRADED"
    ERROR = "ERROR"
    NO_MONITOR = "NO_MONITOR"
    DRAINING = "DRAINING"


class AmphoraStatus(StrEnum):
    """The life of one amphora (amphora.status)."""

    PENDING_CREATE = "PENDING_CREATE"
    BOOTING = "BOOTING"
    READY = "READY"
    ALLOCATED = "ALLOCATED"
    PENDING_DELETE = "PENDING_DELETE"
    DELETED = "DELETED"
    ERROR = "ERROR"
    FAILOVER_STOPPED = "FAILOVER_STOPPED"


class Role(StrEnum):
    """What an amphora is for its load balancer; MASTER and BACKUP are a preference given to keepalived."""

    STANDALONE = "STANDALONE"
    MASTER = "MASTER"
    BACKUP = "BACKUP"


class Topology(StrEnum):
    """How many amphorae serve a load balancer."""

    SINGLE = "SINGLE"
    ACTIVE_STANDBY = "ACTIVE_STANDBY"


class ListenerProtocol(StrEnum):
    """What a listener speaks to clients."""

    HTTP = "HTTP"
    HTTPS = "HTTPS"
    TCP = "TCP"
    TERMINATED_HTTPS = "TERMINATED_HTTPS"
    PROMETHEUS = "PROMETHEUS"
    UDP = "UDP"
    SCTP = "SCTP"


class PoolProtocol(StrEnum):
    """What a pool speaks to its members."""

    HTTP = "HTTP"
    HTTPS = "HTTPS"
    TCP = "TCP"
    PROXY = "PROXY"
    PROXYV2 = "PROXYV2"
    UDP = "UDP"
    SCTP = "SCTP"


class Algorithm(StrEnum):
    """How a pool chooses a member (pool.lb_algorithm)."""

    ROUND_ROBIN = "ROUND_ROBIN"
    LEAST_CONNECTIONS = "LEAST_CONNECTIONS"
    SOURCE_IP = "SOURCE_IP"
    SOURCE_IP_PORT = "SOURCE_IP_PORT"


class MonitorType(StrEnum):
    """How the health of members is checked."""

    HTTP = "HTTP"
    HTTPS = "HTTPS"
    TCP = "TCP"
    PING = "PING"
    TLS_HELLO = "TLS-HELLO"
    UDP_CONNECT = "UDP-CONNECT"
    SCTP = "SCTP"


class PersistenceType(StrEnum):
    """What keeps a client with its member."""

    SOURCE_IP = "SOURCE_IP"
    HTTP_COOKIE = "HTTP_COOKIE"
    APP_COOKIE = "APP_COOKIE"


class L7Action(StrEnum):
    """What an L7 policy does when all its rules match."""

    REJECT = "REJECT"
    REDIRECT_TO_URL = "REDIRECT_TO_URL"
    REDIRECT_PREFIX = "REDIRECT_PREFIX"
    REDIRECT_TO_POOL = "REDIRECT_TO_POOL"


class L7RuleType(StrEnum):
    """What an L7 rule looks at."""

    HOST_NAME = "HOST_NAME"
    PATH = "PATH"
    FILE_TYPE = "FILE_TYPE"
    HEADER = "HEADER"
    COOKIE = "COOKIE"
    SSL_CONN_HAS_CERT = "SSL_CONN_HAS_CERT"
    SSL_VERIFY_RESULT = "SSL_VERIFY_RESULT"
    SSL_DN_FIELD = "SSL_DN_FIELD"


class CompareType(StrEnum):
    """How an L7 rule compares."""

    REGEX = "REGEX"
    STARTS_WITH = "STARTS_WITH"
    ENDS_WITH = "ENDS_WITH"
    CONTAINS = "CONTAINS"
    EQUAL_TO = "EQUAL_TO"


class ClientAuthentication(StrEnum):
    """Whether a TLS listener asks its clients for a certificate."""

    NONE = "NONE"
    OPTIONAL = "OPTIONAL"
    MANDATORY = "MANDATORY"
