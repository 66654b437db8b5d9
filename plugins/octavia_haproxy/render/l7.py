"""L7 policies and rules: acl lines and the action they lead to."""

from __future__ import annotations

from collections.abc import Iterator

from octavia_core.domain.tree import L7Policy, L7Rule
from octavia_core.domain.vocabulary import CompareType, L7Action, L7RuleType
from octavia_haproxy.render import check
from octavia_haproxy.render.names import backend_name
from octavia_haproxy.render.words import argument, line

__all__ = ["policy_lines"]

_MATCH = {
    CompareType.REGEX: "reg",
    CompareType.STARTS_WITH: "beg",
    CompareType.ENDS_WITH: "end",
    CompareType.CONTAINS: "sub",
    CompareType.EQUAL_TO: "str",
}
_REDIRECT_CODES = (301, 302, 303, 307, 308)


def policy_lines(policy: L7Policy, listener_id: str) -> Iterator[str]:
    """An acl for each rule, then the action if all of them match.

    Raises:
        PermanentError: a field cannot be written; the message names the policy or rule.
    """
    conditions = []
    for rule in policy.rules:
        id = check.identifier("L7 rule", rule.id)
        yield line("acl", id, *_expression(rule))
        conditions.append(f"!{id}" if rule.invert else id)
    yield line(*_action(policy, listener_id), "if", *conditions)


def _action(policy: L7Policy, listener_id: str) -> list[str]:
    owner = f"L7 policy {policy.id}"
    if policy.action is L7Action.REJECT:
        return ["http-request", "deny"]
    if policy.action is L7Action.REDIRECT_TO_POOL:
        return ["use_backend", backend_name(str(policy.redirect_pool_id), listener_id)]
    words = ["redirect"]
    if policy.redirect_http_code:
        if policy.redirect_http_code not in _REDIRECT_CODES:
            known = ", ".join(map(str, _REDIRECT_CODES))
            raise check.refuse(owner, "redirect_http_code", f"{policy.redirect_http_code} is not one of {known}")
        words += ["code", str(policy.redirect_http_code)]
    # A redirect of this form takes its target as it is: it is no log-format string, `%` means itself.
    if policy.action is L7Action.REDIRECT_TO_URL:
        return [*words, "location", check.plain(owner, "redirect_url", policy.redirect_url)]
    return [*words, "prefix", check.plain(owner, "redirect_prefix", policy.redirect_prefix)]


def _expression(rule: L7Rule) -> list[str]:
    owner = f"L7 rule {rule.id}"
    if rule.type is L7RuleType.SSL_CONN_HAS_CERT:
        return ["ssl_c_used"]
    if rule.type is L7RuleType.SSL_VERIFY_RESULT:
        return ["ssl_c_verify", "eq", check.number(owner, "value", rule.value, low=0, high=65535)]
    if rule.type is L7RuleType.FILE_TYPE:
        flags = [] if rule.compare_type is CompareType.EQUAL_TO else ["-m", _MATCH[rule.compare_type]]
        return ["path_end", *flags, *_pattern(owner, rule.value)]
    words = ["-m", _MATCH[rule.compare_type], *_pattern(owner, rule.value)]
    if rule.type is L7RuleType.HOST_NAME:
        return ["req.hdr(host)", "-i", *words]
    if rule.type is L7RuleType.PATH:
        return ["path", *words]
    if rule.type is L7RuleType.HEADER:
        # req.hdr gives the parts of a list one by one, none of which has a comma; req.fhdr gives the whole header
        whole = "," in rule.value and rule.compare_type is not CompareType.REGEX
        return [f"req.{'f' * whole}hdr({argument(check.name(owner, 'key', rule.key))})", *words]
    if rule.type is L7RuleType.COOKIE:
        return [f"req.cook({argument(check.name(owner, 'key', rule.key))})", *words]
    return [f"ssl_c_s_dn({argument(check.plain(owner, 'key', rule.key))})", *words]


def _pattern(owner: str, value: str) -> list[str]:
    """The value to compare with; what begins like a flag is announced by `--`."""
    checked = check.text(owner, "value", value)
    return ["--", checked] if checked.startswith("-") else [checked]
