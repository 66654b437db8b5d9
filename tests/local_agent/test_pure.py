"""The parts without sockets: words, translation, comparison, statistics, requests; whatever the bytes."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavia_local.agent.changes import (
    AddServer,
    Content,
    RemoveServer,
    SetCertificate,
    SetState,
    SetWeight,
    compare,
    content_of,
    needs_no_check,
)
from octavia_local.agent.plugs import Plugs
from octavia_local.agent.root import BadBoot, Root, read_conf
from octavia_local.agent.runtime import down_members, read_stats
from octavia_local.agent.syntax import quoted, words
from octavia_local.agent.syntax import texts as texts_of
from octavia_local.agent.translate import Document, Limits, Rendered
from octavia_local.agent.wire import BadHttp, Reader, Refusal, Request, Response
from octavia_local.reach import reachable_port, shifted

LIMITS = Limits(1000, "127.0.0.1")
FILES = {
    "/c/list.pem": b"/c/a.pem\n# a comment\n/c/b.pem [alpn h2] b.test\n",
    "/c/a.pem": b"A",
    "/c/b.pem": b"B",
    "/c/ca.pem": b"CA",
}


def content(path: str) -> bytes:
    try:
        return FILES[path]
    except KeyError:
        raise FileNotFoundError(path) from None


def rendered(text: str, read: Callable[[str], bytes] = content) -> Rendered:
    return Document(text, LIMITS).render(lambda bind: 7, lambda bind: ("127.0.0.1", 5), read)


def compared(text: str, read: Callable[[str], bytes] = content) -> Content:
    return content_of(rendered(text, read))


def backend(*lines: str, head: str = "") -> Content:
    return compared(
        f"global\n    daemon\n{head}\nbackend b\n    balance roundrobin\n" + "".join(f"    server {x}\n" for x in lines)
    )


# -- words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "texts"),
    [
        ("  a  b\tc ", ["a", "b", "c"]),
        ("a # b", ["a"]),
        ("a#b", ["a"]),
        (r"a\ b c\#d \\", ["a b", "c#d", "\\"]),
        ("a 'b \\ c' \"d e\" f'g h'i", ["a", "b \\ c", "d e", "fg hi"]),
        ("''", [""]),
        ("", []),
    ],
)
def test_words_are_split_as_haproxy_does(raw: str, texts: list[str]) -> None:
    found = words(raw)
    assert [word.text for word in found] == texts == list(texts_of(raw))
    assert all(raw[word.start : word.end].strip() for word in found)


@given(st.text(alphabet=st.characters(blacklist_characters="\n\r", blacklist_categories=["Cs"])))
def test_a_quoted_word_means_itself_wherever_it_stands(text: str) -> None:
    if text:
        assert [word.text for word in words(f"a {quoted(text)} b")] == ["a", text, "b"]


@given(
    st.text(
        alphabet=st.one_of(
            st.characters(blacklist_characters="\n"),  # it ends a line
            st.sampled_from(" \t\r\x0b\x0c\x1c\x85\xa0\u2028ab"),
        )
    )
)
def test_words_without_their_places_are_the_same(raw: str) -> None:
    try:
        found = tuple(word.text for word in words(raw))
    except ValueError:
        with pytest.raises(ValueError, match="quote"):
            texts_of(raw)
    else:
        assert texts_of(raw) == found


@given(st.text())
def test_any_text_is_a_document_or_refused(text: str) -> None:
    try:
        rendered(text)
    except Refusal as refusal:
        assert refusal.status == 400


# -- translation ---------------------------------------------------------------------------------------------------


def test_stick_tables_of_a_single_amphora_get_peers_and_those_of_a_pair_keep_theirs() -> None:
    text = "backend b\n    stick-table type ipv6 size 10k\n    stick on src"
    document = Document(text, LIMITS)
    assert document.tables in document.binds
    made = document.render(lambda bind: 7, lambda bind: ("127.0.0.1", 5), content, tables="sekret").text.splitlines()
    assert made[:3] == ["backend b", "    stick-table type ipv6 size 10k peers octavia-tables", "    stick on src"]
    assert made[3:6] == ["peers octavia-tables", "    bind fd@7", "    server sekret"]
    pair = f"peers p\n    peer a 192.0.2.1:1025\n{text} ".replace("10k", "10k peers p")
    assert (rendered(pair).text, Document(pair, LIMITS).tables) == (pair, None)
    assert Document("backend b\n    balance source", LIMITS).tables is None


def test_lines_keep_their_numbers_and_everything_else_its_text() -> None:
    text = r"""# comment
global
    daemon
    user nobody
    log /dev/log local0
    maxconn 1000000
    tune.ssl.cachesize 1548800
    server-state-file /var/lib/octavia/x/servers-state
defaults
    log global
frontend f
    bind 127.64.0.1:443 ssl crt-list /c/list.pem ca-file /c/ca.pem verify required
    log-format x\ %{+Q}r\ '#'
    bind 127.64.0.1:80"""
    out = rendered(text)
    assert out.text.split("\n") == [
        "# comment", "global", "", "", "", "    maxconn 1000",
        "    tune.ssl.cachesize 20000",
        "    server-state-file servers-state", "defaults", "    log global",
        "frontend f", "    bind fd@7 ssl crt-list lists/c+list.list ca-file files/c+ca.pem verify required",
        "    log-format x\\ %{+Q}r\\ '#'", "    bind fd@7",
    ]  # fmt: skip
    [listed] = out.crt_lists
    assert listed.text == "lists/c+list-0.pem\nlists/c+list-1.pem [alpn h2] b.test\n"
    assert out.certificates == {"lists/c+list-0.pem": "/c/a.pem", "lists/c+list-1.pem": "/c/b.pem"}


def test_binds_are_listed_once_each() -> None:
    document = Document("frontend a\n bind 127.0.0.1:80\n bind 127.0.0.2:80\nfrontend b\n bind *:81\n", LIMITS)
    assert [str(bind) for bind in document.binds] == ["127.0.0.1:80", "127.0.0.2:80", "0.0.0.0:81"]


@pytest.mark.parametrize(
    "text",
    [
        "frontend f\n bind 127.0.0.1:80-90\n",
        "frontend f\n bind 127.0.0.1:80,127.0.0.2:80\n",
        "frontend f\n bind unix@/tmp/x\n",
        "frontend f\n bind [::1]:80\n",
        "frontend f\n bind ::1:80\n",
        "frontend f\n bind 127.0.0.1:0\n",
        "frontend f\n bind 127.0.0.300:1\n",
        "frontend f\n bind\n",
        "frontend f\n bind 127.0.0.1:80\nfrontend g\n bind 127.0.0.1:80\n",
        "frontend f\n bind 127.0.0.1:80 ssl crt-list /nowhere\n",
        "frontend f\n bind 127.0.0.1:80 ssl crt relative.pem\n",
        "global\n setenv A B\n",
        "global\n stats bind-process 1\n",
        ".if true\n",
        "ring r\n",
        "bind 127.0.0.1:80\n",
        "backend b\n external-check command /bin/sh\n",
        "frontend f\0\n",
    ],
)
def test_what_cannot_be_run_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(Refusal) as caught:
        rendered(text, lambda path: Root("/tmp").read(path) if path.startswith("relative") else content(path))  # noqa: S108
    assert caught.value.status == 400
    assert "\n" not in (caught.value.details or "")


OWN_PLACES = [
    "127.0.0.1",
    "127.9.9.9",
    "0.0.0.0",
    "::1",
    "::",
    "0:0::1",
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
    "::ffff:0.0.0.0",
]  # noqa: S104


@pytest.mark.parametrize("address", OWN_PLACES)
def test_what_would_be_the_amphora_itself_is_refused_in_a_namespace(address: str) -> None:
    for place in (
        f"{address}:80 weight 1",
        f"198.51.100.1:80 check addr {f'[{address}]' if ':' in address else address} port 80",
    ):
        text = f"backend b\n    server m {place}\n"
        with pytest.raises(Refusal) as caught:
            Document(text, LIMITS._replace(namespace=True))
        assert f"line 2: {address}" in caught.value.details.replace("[", "").replace("]", "")
        assert "would be the amphora itself" in caught.value.details
        Document(text, LIMITS)  # on loopback it is this machine


def test_addresses_of_others_are_no_loopback() -> None:
    for address in ("128.0.0.1", "::2", "::ffff:198.51.100.1", "2001:db8::1", "fe80::1", "1::"):
        Document(
            f"backend b\n    server m {address}:80 weight 1 check addr {address}\n", LIMITS._replace(namespace=True)
        )


# -- comparison ----------------------------------------------------------------------------------------------------


def test_the_same_needs_nothing() -> None:
    assert compare(backend("m 127.0.0.1:1 weight 2"), backend("m   127.0.0.1:1 weight 2 # comment"), ()) == ()


def test_weights_states_and_members_are_changed_at_run_time() -> None:
    old = backend("a 127.0.0.1:1 weight 1 check inter 5s", "b 127.0.0.1:2 weight 1", "c 127.0.0.1:3 weight 1 disabled")
    new = backend("d 127.0.0.1:4 weight 9", "c 127.0.0.1:3 weight 1", "a 127.0.0.1:1 weight 3 check inter 5s")
    assert compare(old, new, ()) == (
        AddServer(new.members["b/d"]),
        SetState("b/c", disabled=False),
        SetWeight("b/a", 3),
        RemoveServer("b/b"),
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("m 127.0.0.1:1", "m 127.0.0.1:2"),
        ("m 127.0.0.1:1", "m 127.0.0.1:1 check"),
        ("m 127.0.0.1:1 check inter 5s", "m 127.0.0.1:1 check inter 6s"),
        ("m 127.0.0.1:1", "n 127.0.0.1:1 ssl ca-file /c/ca.pem verify required"),
        ("m 127.0.0.1:1", "n 127.0.0.1:1 no-such-word"),
    ],
)
def test_other_changes_of_a_member_are_a_reload(old: str, new: str) -> None:
    assert compare(backend(old), backend(new), ()) is None


def test_anything_else_is_a_reload() -> None:
    assert compare(backend("m 127.0.0.1:1"), backend("m 127.0.0.1:1", head="defaults\n    retries 3"), ()) is None
    assert compare(backend("m 127.0.0.1:1"), backend("m 127.0.0.1:1"), ["files/c+ca.pem"]) is None
    for text in ("backend b\n default-server check\n", "defaults\n default-server check\nbackend b\n"):
        assert compare(compared(text), compared(text + " server n 127.0.0.1:2\n"), ()) is None


def test_a_member_that_is_pinged_comes_with_a_reload_and_changes_at_run_time() -> None:
    limits = Limits(1000, "127.0.0.1", namespace=True, icmp=True)

    def pinged(*lines: str) -> Content:
        text = "backend b\n option external-check\n external-check command /ping\n"
        document = Document(text + "".join(f" server {x}\n" for x in lines), limits)
        return content_of(document.render(lambda bind: 7, lambda bind: ("127.0.0.1", 5), content, "/a place/ping.sh"))

    old = pinged("m 192.0.2.1:1 weight 1 check", "n 192.0.2.2:1 check")
    assert [word.text for word in words(old.text.splitlines()[2])][2] == "/a place/ping.sh"
    assert compare(old, pinged("m 192.0.2.1:1 weight 2 check"), ()) == (SetWeight("b/m", 2), RemoveServer("b/n"))
    assert compare(pinged("m 192.0.2.1:1 weight 1 check"), old, ()) is None


def certain(old: Content, new: Content) -> bool:
    steps = compare(old, new, ())
    return steps is not None and needs_no_check(old, new, steps)


@pytest.mark.parametrize(
    "new",
    [
        ("a 127.0.0.1:1 weight 256 check", "mem 127.0.0.1:2 weight 1"),
        ("a 127.0.0.1:1 weight 1 check disabled", "mem 127.0.0.1:2 weight 0"),
        ("a 127.0.0.1:1 weight 1 check",),
        ("a 127.0.0.1:1 weight 1 check", "mem 127.0.0.1:2 weight 1", "c 127.0.0.9:65535 weight 7 check"),
        ("a 127.0.0.1:1 weight 1 check", "mem 127.0.0.1:2 weight 1", "c [2001:db8::1]:80 weight 7"),
    ],
)
def test_haproxy_is_not_asked_about_what_it_accepts_for_certain(new: tuple[str, ...]) -> None:
    assert certain(backend("a 127.0.0.1:1 weight 1 check", "mem 127.0.0.1:2 weight 1"), backend(*new))


@pytest.mark.parametrize(
    "new",
    [
        ("a 127.0.0.1:1 weight 257",),  # out of range
        ("a 127.0.0.1:1 weight 99999999999",),
        ("a 127.0.0.1:1 weight \u00b2",),  # a digit to Python
        ("a 127.0.0.1:1 weight 1", "b 127.0.0.1:2 weight 1 check"),  # words that no other member has
        ("a 127.0.0.1:1 weight 1", "b example:2 weight 1"),  # a name to be looked up
        ("a 127.0.0.1:1 weight 1", "b 127.0.0.1:0 weight 1"),
        ("a 127.0.0.1:1 weight 1", "b 127.0.0.1:70000 weight 1"),
        ("a 127.0.0.1:1 weight 1", "b\\ c 127.0.0.1:2 weight 1"),
        ("a 127.0.0.1:1 weight 1", "a 127.0.0.1:1 weight 1"),  # two of one name
    ],
)
def test_haproxy_is_asked_about_everything_else(new: tuple[str, ...]) -> None:
    assert not certain(backend("a 127.0.0.1:1 weight 1"), backend(*new))


def test_haproxy_is_asked_when_a_member_goes_that_another_line_names() -> None:
    text = "backend b\n use-server mem if TRUE\n server mem 127.0.0.1:1\n"
    other = " server other 127.0.0.1:2\n"
    assert certain(compared(text + other), compared(text))
    assert not certain(compared(text + other), compared("backend b\n use-server mem if TRUE\n" + other))


def test_new_contents_of_a_certificate_are_taken_over_at_run_time() -> None:
    text = "frontend f\n    bind 127.0.0.1:443 ssl crt-list /c/list.pem\n"
    renewed = compared(
        text, lambda path: b"/c/a.pem\n/c/ca.pem [alpn h2] b.test\n" if "list" in path else content(path)
    )
    assert compare(compared(text), renewed, ["lists/c+list-1.pem"]) == (SetCertificate("lists/c+list-1.pem"),)
    fewer = compared(text, lambda path: b"/c/a.pem\n" if "list" in path else content(path))
    assert compare(compared(text), fewer, ()) is None


DUMP = """1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time_since_last_change
3 b 1 down 127.0.0.1 0 0 7 7 1
3 b 2 maintained 127.0.0.1 0 1 1 1 1
3 b 3 up 127.0.0.1 2 0 1 1 1
3 b 4 gone 127.0.0.1 0 0 1 1 1
"""


def test_only_what_health_checks_found_is_carried_over() -> None:
    wanted = backend(*(f"{name} 127.0.0.1:1 weight 2 check" for name in ("down", "maintained", "up", "new"))).members
    assert down_members(DUMP, wanted).splitlines()[2:] == ["3 b 1 down 127.0.0.1 0 0 2 2 1"]
    assert down_members(DUMP, backend("up 127.0.0.1:1 check").members) == ""
    assert down_members("", wanted) == ""


# -- statistics ----------------------------------------------------------------------------------------------------


def test_statistics_are_read_up_to_the_weight_and_prometheus_is_left_out() -> None:
    names = "pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,dreq,dresp,ereq,econ,eresp,wretr,wredis,status,weight"
    text = "\n".join([
        f"# {names},last_chk,",
        "f,FRONTEND,,,1,0,0,2,3,4,,,5,,,,,OPEN,,",
        'b,m,,,0,0,0,2,3,4,,,,,,,,UP 1/2,7,"a, b"',
        "prometheus-x,FRONTEND,,,1,0,0,2,3,4,,,5,,,,,OPEN,,",
        "",
    ])  # fmt: skip
    first, second = read_stats(text)
    assert first.counters == {"scur": 1, "stot": 2, "bin": 3, "bout": 4, "ereq": 5}
    assert (second.kind, second.status, second.weight) == ("server", "UP 1/2", 7)
    assert read_stats("") == read_stats("Permission denied") == []


# -- requests ------------------------------------------------------------------------------------------------------


def read_all(data: bytes, piece: int) -> list[Request]:
    chunks = [data[start : start + piece] for start in range(0, len(data), piece)]
    reader = Reader(lambda _: chunks.pop(0) if chunks else b"", lambda _: None)
    found = []
    while (request := reader.next()) is not None:
        found.append(request)
    return found


@given(st.integers(1, 70))
def test_requests_are_read_however_they_are_cut(piece: int) -> None:
    data = b"PUT /a%20b?c=d HTTP/1.1\r\nContent-Length: 3\r\nX-Y:  z \r\n\r\nxyz\r\nGET / HTTP/1.0\r\n\r\n"
    first, second = read_all(data, piece)
    assert (first.method, first.path, first.body, first.keep_alive) == ("PUT", "/a b", b"xyz", True)
    assert first.headers["x-y"] == "z"
    assert (second.method, second.path, second.body, second.keep_alive) == ("GET", "/", b"", False)


@given(st.binary(max_size=300) | st.binary(max_size=50).map(lambda data: b"GET / HTTP/1.1\r\n" + data + b"\r\n\r\n"))
def test_any_bytes_are_requests_or_refused(data: bytes) -> None:
    try:
        read_all(data, 64)
    except BadHttp as error:
        assert error.response.status in (400, 413, 431)
        assert json.loads(error.response.body)["http_code"] == error.response.status


def test_a_body_that_breaks_off_is_refused() -> None:
    with pytest.raises(BadHttp):
        read_all(b"PUT / HTTP/1.1\r\nContent-Length: 9\r\n\r\nxyz", 64)


# -- files of the root ---------------------------------------------------------------------------------------------


@given(st.text(max_size=40))
def test_no_path_leads_out_of_the_root(path: str) -> None:
    root = Root("/nonexistent/root")
    try:
        inside = root.inside(path)
    except ValueError:
        return
    assert inside.startswith("/nonexistent/root")
    assert "/../" not in f"{inside}/"


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda t: ("[health_manager]\n" + t).encode()))
def test_any_configuration_is_understood_or_refused(data: bytes) -> None:
    try:
        read_conf(data)
    except BadBoot as error:
        assert "\n" not in str(error)


def test_a_percent_sign_in_a_value_is_just_that() -> None:
    assert read_conf(b"[health_manager]\nheartbeat_key = a%b$c\n").key == "a%b$c"
    assert read_conf(b"").key == "None"  # upstream: str() of an unset option


@given(st.binary(max_size=60) | st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: (
    st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["mac_address", "fixed_ips", "subnet_cidr", "gateway", "additional_vips"]), inner)
)).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_any_plug_body_is_answered(tmp_path_factory: pytest.TempPathFactory, body: bytes) -> None:
    plugs = Plugs(Root(str(tmp_path_factory.mktemp("root"))), "/var/lib/octavia")
    request = Request("POST", "/", {}, body, keep_alive=False)
    calls: list[Callable[[], Response]] = [lambda: plugs.network(request), lambda: plugs.vip(request, "127.0.0.1")]
    for call in calls:
        try:
            assert call().status in (202, 400, 409)
        except Refusal as refusal:
            assert refusal.status == 400


# -- ports ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("port", "below", "capable", "reached"),
    [
        (80, 1024, False, 8080),
        (80, 1024, True, 80),
        (80, 80, False, 80),
        (1023, 1024, False, 9023),
        (8080, 1024, False, 8080),
    ],
)
def test_a_privileged_port_is_served_8000_higher(port: int, below: int, capable: bool, reached: int) -> None:
    assert shifted(port, below=below, capable=capable) == reached


def test_an_ordinary_port_is_reached_as_asked() -> None:
    assert reachable_port(8443) == 8443
