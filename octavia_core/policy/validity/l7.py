"""L7 policies and their rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from octavia_core.domain.tree import L7Policy, L7Rule, Listener
from octavia_core.domain.vocabulary import CompareType, L7Action, L7RuleType, ListenerProtocol
from octavia_core.policy.validity.listeners import HTTP_LISTENERS
from octavia_core.policy.validity.scope import Scope
from octavia_core.policy.validity.values import (
    INT,
    Rule,
    fields,
    flag,
    line,
    matching,
    one_of,
    optional,
    prose,
    regular_expression,
    token,
    url,
    whole,
)
from octavia_core.policy.validity.words import alternatives, label, refusal

__all__ = ["TARGETS", "check"]

_A, _T, _C = L7Action, L7RuleType, CompareType

TARGETS: Mapping[L7Action, str | None] = {
    _A.REJECT: None,
    _A.REDIRECT_TO_URL: "redirect_url",
    _A.REDIRECT_PREFIX: "redirect_prefix",
    _A.REDIRECT_TO_POOL: "redirect_pool_id",
}
"""Which field says where to; an action needs its own and bears no other."""

_REDIRECTS = (_A.REDIRECT_TO_URL, _A.REDIRECT_PREFIX)
_ANY = tuple(CompareType)
_COMPARE: Mapping[L7RuleType, tuple[CompareType, ...]] = {
    **dict.fromkeys(_T, _ANY),
    _T.FILE_TYPE: (_C.EQUAL_TO, _C.REGEX),
    _T.SSL_CONN_HAS_CERT: (_C.EQUAL_TO,),
    _T.SSL_VERIFY_RESULT: (_C.EQUAL_TO,),
}
_KEYED = (_T.HEADER, _T.COOKIE, _T.SSL_DN_FIELD)
_OF_TLS = (_T.SSL_CONN_HAS_CERT, _T.SSL_VERIFY_RESULT, _T.SSL_DN_FIELD)
_DN_FIELD = matching(r"[A-Za-z][A-Za-z0-9.\-]*", 255, "the name of a field such as CN, O or emailAddress")

_POLICY: dict[str, Rule] = {
    "name": optional(line(255)),
    "description": optional(prose(255)),
    "project_id": optional(line(36)),
    "enabled": flag,
    "action": one_of(L7Action),
    "position": whole(1, INT),
    "redirect_url": optional(url),
    "redirect_prefix": optional(url),
    "redirect_http_code": optional(one_of(301, 302, 303, 307, 308)),
}
_RULE: dict[str, Rule] = {
    "type": one_of(L7RuleType),
    "compare_type": one_of(CompareType),
    "value": line(255, shortest=1),
    "key": optional(line(255, shortest=1)),
    "invert": flag,
    "enabled": flag,
    "project_id": optional(line(36)),
}


def check(scope: Scope) -> None:
    """Hold policies and rules that are concerned against their rules."""
    for listener in scope.tree.listeners:
        positions: dict[object, L7Policy] = {}
        for policy in listener.l7policies:
            concerned = scope.concerned(policy)
            if concerned:
                _policy(f"{label(policy)} of {label(listener)}", policy, scope)
            if concerned or scope.concerned(listener):
                _listener(policy, listener)
            for index, rule in enumerate(policy.rules):
                if scope.concerned(rule):
                    place = f"number {index + 1} of {label(policy)} of {label(listener)}"
                    _rule(f"{label(rule)} ({place})", rule, listener)
            if isinstance(policy.position, int):
                first = positions.setdefault(policy.position, policy)
                if first is not policy and (concerned or scope.concerned(first)):
                    tail = f"a position that no other policy of {label(listener)} has ({label(first)} has it)"
                    raise refusal(label(policy), "position", policy.position, tail)


def _policy(owner: str, policy: L7Policy, scope: Scope) -> None:
    fields(owner, policy, _POLICY)
    target = TARGETS[policy.action]
    for name in ("redirect_url", "redirect_prefix", "redirect_pool_id"):
        value = getattr(policy, name)
        if name == target and value is None:
            raise refusal(owner, name, None, f"set, since the action is {policy.action}")
        if name != target and value is not None:
            raise refusal(owner, name, value, f"left out, since the action is {policy.action}")
    if policy.redirect_http_code is not None and policy.action not in _REDIRECTS:
        tail = f"left out, since the action is {policy.action} ({alternatives(_REDIRECTS)} have a code)"
        raise refusal(owner, "redirect_http_code", policy.redirect_http_code, tail)
    if policy.action is _A.REDIRECT_TO_POOL and scope.pool(policy.redirect_pool_id) is None:
        raise refusal(owner, "redirect_pool_id", policy.redirect_pool_id, "the id of a pool of this load balancer")


def _listener(policy: L7Policy, listener: Listener) -> None:
    if listener.protocol not in HTTP_LISTENERS:
        tail = f"{alternatives(HTTP_LISTENERS)}, since it has {label(policy)}: L7 policies read HTTP requests"
        raise refusal(label(listener), "protocol", listener.protocol, tail)


def _rule(owner: str, rule: L7Rule, listener: Listener) -> None:
    fields(owner, rule, _RULE)
    comparisons = _COMPARE[rule.type]
    if rule.compare_type not in comparisons:
        tail = f"{alternatives(comparisons)} for a rule of type {rule.type}"
        raise refusal(owner, "compare_type", rule.compare_type, tail)
    _key(owner, rule)
    if rule.type in _OF_TLS and listener.protocol is not ListenerProtocol.TERMINATED_HTTPS:
        tail = f"a type that does without TLS, or the rule of a TERMINATED_HTTPS listener; {label(listener)} is none"
        raise refusal(owner, "type", rule.type, tail)
    allowed = regular_expression(rule.value) if rule.compare_type is _C.REGEX else _VALUES.get(rule.type, _any)(rule)
    if allowed is not None:
        raise refusal(owner, "value", rule.value, allowed)


def _key(owner: str, rule: L7Rule) -> None:
    if rule.type not in _KEYED:
        if rule.key is not None:
            raise refusal(owner, "key", rule.key, f"left out for a rule of type {rule.type}")
        return
    what = {_T.HEADER: "header", _T.COOKIE: "cookie", _T.SSL_DN_FIELD: "field of the distinguished name"}[rule.type]
    if rule.key is None:
        raise refusal(owner, "key", None, f"the name of the {what} to look at")
    allowed = _DN_FIELD(rule.key) if rule.type is _T.SSL_DN_FIELD else token()(rule.key)
    if allowed is not None:
        raise refusal(owner, "key", rule.key, allowed)


def _any(rule: L7Rule) -> str | None:
    return None


def _path(rule: L7Rule) -> str | None:
    anchored = rule.compare_type in (_C.EQUAL_TO, _C.STARTS_WITH)
    return "a path that begins with /: no other can match" if anchored and rule.value[0] not in "/*" else None


def _header(rule: L7Rule) -> str | None:
    """HAProxy sees headers without the blanks round them."""
    begins = rule.compare_type in (_C.EQUAL_TO, _C.STARTS_WITH) and rule.value[0] in " \t"
    ends = rule.compare_type in (_C.EQUAL_TO, _C.ENDS_WITH) and rule.value[-1] in " \t"
    where = "begin" if begins else "end"
    return f"text that does not {where} with a blank: no header that does is ever seen" if begins or ends else None


def _true(rule: L7Rule) -> str | None:
    return None if rule.value.lower() == "true" else "True (use invert for the opposite)"


def _result(rule: L7Rule) -> str | None:
    """OpenSSL's verification result, as HAProxy's ssl_c_verify gives it."""
    number = rule.value.isascii() and rule.value.isdigit() and len(rule.value) <= 5 and int(rule.value) <= 65535
    return None if number else "a result of certificate verification from 0 (verified) to 65535"


_VALUES: dict[Any, Callable[[L7Rule], str | None]] = {
    _T.PATH: _path,
    _T.HEADER: _header,
    _T.SSL_CONN_HAS_CERT: _true,
    _T.SSL_VERIFY_RESULT: _result,
}
