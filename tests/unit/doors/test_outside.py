"""What proxies say: whom it is believed of, and what of it counts."""

from __future__ import annotations

from typing import Any, Final

import pytest
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs

from isolane.doors.outside import Outside, get_cookie_path, get_home, get_origin, is_secure
from isolane.settings import load_settings
from isolane.settings.addresses import TrustedProxies, parse_address

PROXY: Final = "127.0.0.1"
VISITOR: Final = "203.0.113.7"


class App:
    """Keeps the scopes that it gets, as a gateway would."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 - as the settings have it
        self.scopes: list[Scope] = []
        self.outside = Outside(self, settings=load_settings(settings))

    async def __call__(self, scope: Scope, _receive: Receive, _send: Send) -> None:
        self.scopes.append(scope)

    async def see(
        self,
        *headers: tuple[str, str],
        client: tuple[str, int] | None = (PROXY, 4000),
        kind: str = "http",
        **scope: Any,  # noqa: ANN401 - as ASGI has it
    ) -> Scope:
        """Return the scope that the app gets for a request."""
        asked: Scope = {
            "type": kind,
            "method": "GET",
            "scheme": "ws" if kind == "websocket" else "http",
            "path": "/api/me",
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
            "client": client,
            "app": Starlette(),  # without a route
            **scope,
        }
        await self.outside(asked, _nothing, _nothing)
        return self.scopes.pop()


async def _nothing(*_: object) -> Any:  # noqa: ANN401 - nobody asks
    raise AssertionError


def forwarded(*chain: str) -> tuple[tuple[str, str], ...]:
    return tuple(("x-forwarded-for", each) for each in chain)


@pytest.mark.parametrize(
    "chain, visitor",
    [
        ([VISITOR], VISITOR),
        ([f"{VISITOR}:5000"], VISITOR),
        (["2001:db8::1"], "2001:db8::1"),
        (["[2001:DB8::1]"], "2001:db8::1"),
        (["[2001:db8::1]:5000"], "2001:db8::1"),
        (['"[2001:db8::1]:5000"'], "2001:db8::1"),
        ([f"::ffff:{VISITOR}"], VISITOR),
        # What a visitor writes stands before what the proxies write.
        ([f"198.51.100.1, {VISITOR}"], VISITOR),
        (["198.51.100.1", VISITOR], VISITOR),
        ([f"198.51.100.1, {VISITOR}, 10.0.0.5, ::1"], VISITOR),
        ([f" , {VISITOR} ,, 10.0.0.5 , "], VISITOR),
        # Nobody but proxies: one of them asks for itself.
        (["10.0.0.6, 10.0.0.5"], "10.0.0.6"),
        # What is no address ends the reading: it is the word of whoever comes behind it.
        ([f"{VISITOR}, unknown"], PROXY),
        ([f"{VISITOR}, unknown, 10.0.0.5"], "10.0.0.5"),
        (["_hidden"], PROXY),
        (["<script>"], PROXY),
        (["1.2.3.4.5"], PROXY),
        ([""], PROXY),
        ([","], PROXY),
        ([], PROXY),
    ],
)
async def test_visitor_is_the_last_one_who_is_no_proxy(chain: list[str], visitor: str) -> None:
    app = App(trusted_proxies="127.0.0.0/8,::1,10.0.0.0/8")
    seen = await app.see(*forwarded(*chain))
    assert seen["client"][0] == visitor


@pytest.mark.parametrize(
    "client, trusted, is_believed",
    [
        ((PROXY, 1), "127.0.0.0/8,::1", True),
        (("::1", 1), "127.0.0.0/8,::1", True),
        (("::ffff:127.0.0.1", 1), "127.0.0.0/8,::1", True),
        (None, "127.0.0.0/8,::1", True),  # a Unix socket
        (("", 0), "127.0.0.0/8,::1", True),
        ((PROXY, 1), "", False),
        (None, "", False),
        (("10.0.0.5", 1), "127.0.0.0/8,::1", False),
        (("10.0.0.5", 1), "10.0.0.0/8", True),
        (("10.0.0.5", 1), "10.0.0.5", True),
        ((PROXY, 1), "10.0.0.0/8", False),
        (("testclient", 1), "127.0.0.0/8", False),
        (("testclient", 1), "*", True),
        (("198.51.100.9", 1), "*", True),
    ],
)
async def test_only_proxies_that_are_named_are_believed(
    client: tuple[str, int] | None, trusted: str, *, is_believed: bool
) -> None:
    app = App(trusted_proxies=trusted)
    headers = (
        ("host", "inner:8000"),
        *forwarded(VISITOR),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "example.org"),
        ("x-forwarded-prefix", "/chat"),
    )
    with capture_logs() as logs:
        seen = await app.see(*headers, client=client)
    told = (seen["client"] or ("",))[0], get_origin(seen), get_home(seen), is_secure(seen)
    if is_believed:
        assert told == (VISITOR, "https://example.org", "/chat/", True)
    else:
        assert told == ((client or ("",))[0], "http://inner:8000", "/", False)
    assert bool(logs) is not is_believed


async def test_log_names_once_whose_headers_are_not_believed() -> None:
    app = App()
    with capture_logs() as logs:
        for _ in range(3):
            await app.see(*forwarded(VISITOR), client=("10.0.0.5", 4000))
        for number in range(200):
            await app.see(("x-forwarded-proto", "https"), client=(f"10.0.1.{number}", 4000))
    assert (logs[0]["event"], logs[0]["address"]) == ("forwarded_headers_ignored", "10.0.0.5")
    assert "ISOLANE_TRUSTED_PROXIES" in logs[0]["advice"]
    assert [log["address"] for log in logs].count("10.0.0.5") == 1
    assert len(logs) == 64


async def test_server_that_reads_the_headers_itself_is_named() -> None:
    """As uvicorn does by default: the visitor stands where the proxy was, with port 0."""
    app = App()
    with capture_logs() as logs:
        for number in range(3):
            seen = await app.see(*forwarded(VISITOR), client=(f"203.0.113.{number}", 0))
            assert seen["client"] == (f"203.0.113.{number}", 0)
    assert [log["event"] for log in logs] == ["forwarded_headers_taken_by_server"]
    assert "--no-proxy-headers" in logs[0]["advice"]


@pytest.mark.parametrize(
    "scheme, chain, is_https",
    [
        ("https", [VISITOR], True),
        ("HTTPS", [], True),
        ("wss", [VISITOR], True),
        ("http", [VISITOR], False),
        ("ws", [VISITOR], False),
        ("ftp", [VISITOR], False),
        ("", [VISITOR], False),
        ("https, http", [f"{VISITOR}, 127.0.0.2"], True),  # of two proxies, as each was asked
        ("https, http", [VISITOR], False),  # the first is the visitor's own word
        ("http, https", [f"198.51.100.1, {VISITOR}"], True),
        ("https", [f"{VISITOR}, 127.0.0.2"], True),
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_scheme_is_that_of_the_visitors_line(
    kind: str, scheme: str, chain: list[str], *, is_https: bool
) -> None:
    seen = await App().see(*forwarded(*chain), ("x-forwarded-proto", scheme), kind=kind)
    plain = "ws" if kind == "websocket" else "http"
    assert seen["scheme"] == (f"{plain}s" if is_https else plain)


@pytest.mark.parametrize(
    "header, value",
    [
        ("x-forwarded-host", "exa mple.org"),
        ("x-forwarded-host", "example.org/chat"),
        ("x-forwarded-host", "ada@example.org"),
        ("x-forwarded-host", '"><script>'),
        ("x-forwarded-prefix", "chat"),
        ("x-forwarded-prefix", "//evil.example"),
        ("x-forwarded-prefix", "/\\evil.example"),
        ("x-forwarded-prefix", "/%5Cevil.example"),
        ("x-forwarded-prefix", "/%2Fevil.example"),
        ("x-forwarded-prefix", "/a/../b"),
        ("x-forwarded-prefix", "/a%0d%0aset-cookie:x"),
        ("x-forwarded-prefix", "/"),
    ],
)
async def test_what_no_address_may_hold_says_nothing(header: str, value: str) -> None:
    seen = await App().see(("host", "inner:8000"), (header, value))
    assert (get_origin(seen), get_home(seen), get_cookie_path(seen)) == (
        "http://inner:8000",
        "/",
        "/",
    )


async def test_public_url_wins_over_whatever_comes() -> None:
    app = App(public_url="https://example.org:8443")
    for client in ((PROXY, 1), ("10.0.0.5", 1)):
        seen = await app.see(
            ("host", "evil.example"),
            ("x-forwarded-host", "evil.example"),
            ("x-forwarded-proto", "http"),
            client=client,
        )
        assert get_origin(seen) == "https://example.org:8443"
        assert [value for name, value in seen["headers"] if name == b"host"] == [
            b"example.org:8443"
        ]


@pytest.mark.parametrize(
    "public, root, app_root, home",
    [
        ("https://e.org", "", None, "/"),
        ("https://e.org", "/api", None, "/api/"),  # uvicorn --root-path /api
        ("https://e.org", "/api/agent", "/api", "/api/agent/"),
        ("https://e.org/api", "/agent", "", "/api/agent/"),  # a host's address
        ("https://e.org/api/agent", "/agent", "", "/api/agent/"),  # the gateway's
        ("https://e.org/agent", "/agent", "", "/agent/"),
        ("https://e.org/my-agent", "/agent", "", "/my-agent/agent/"),
        ("https://e.org/chat", "/api", None, "/chat/"),
        (None, "/agent", "", "/agent/"),
    ],
)
async def test_path_of_the_public_url_goes_with_that_of_a_mount(
    public: str | None, root: str, app_root: str | None, home: str
) -> None:
    scope: dict[str, Any] = {"root_path": root, "path": f"{root}/api/me"}
    if app_root is not None:
        scope["app_root_path"] = app_root
    seen = await App(public_url=public).see(**scope)
    assert (get_home(seen), seen["path"]) == (home, f"{home}api/me")


async def test_given_scope_stays_as_it_is() -> None:
    given: Scope = {"type": "http", "method": "GET", "scheme": "http", "path": "/x",
                    "headers": [(b"host", b"inner")], "client": (PROXY, 1)}  # fmt: skip
    before = {**given, "headers": [*given["headers"]]}
    await App(public_url="https://example.org").outside(given, _nothing, _nothing)
    assert given == before


@pytest.mark.parametrize("text", ["", " ", "::", "1.2.3.4", "1.2.3.4:5", "[::]", "[::]:5"])
def test_addresses_with_and_without_ports(text: str) -> None:
    found = parse_address(text)
    assert (found is None) is (not text.strip())
    assert TrustedProxies(("*",)).trusts(found)


@pytest.mark.parametrize("entry", ["::ffff:10.0.0.1", "::ffff:10.0.0.0/104", "10.0.0.0/8"])
def test_address_of_version_4_is_the_same_one_as_version_6_writes_it(entry: str) -> None:
    proxies = TrustedProxies((entry,))
    for written in ("10.0.0.1", "::ffff:10.0.0.1"):
        assert proxies.trusts(parse_address(written))
    assert not proxies.trusts(parse_address("192.0.2.1"))
    assert not proxies.trusts(parse_address("::1"))


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    "asked, raw, seen",
    [
        ("/agui/", b"/agui/", "/agui"),
        ("/ws/script/", b"/ws/script/", "/ws/script"),
        ("/ws/script/", b"/ws/script%2F", "/ws/script/"),
        ("/agui//", b"/agui//", "/agui/"),
        ("/", b"/", "/"),
        ("/agui", b"/agui", "/agui"),
    ],
)
async def test_slash_at_the_end_is_taken_away(kind: str, asked: str, raw: bytes, seen: str) -> None:
    assert (await App().see(kind=kind, path=asked, raw_path=raw))["path"] == seen


@pytest.mark.parametrize("host", ["evil.example/path", "a b", "user@evil.example", "x?y", ""])
async def test_host_that_is_none_makes_no_origin(host: str) -> None:
    assert get_origin(await App().see(("host", host))) == "http://"
