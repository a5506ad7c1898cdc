"""The layer `page`: the page's files are there, and the gateway accepts the page as its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from http import HTTPStatus
from typing import Final
from urllib.parse import urljoin, urlsplit

import httpx

from isolane.check.finding import Below, Broken, Skipped
from isolane.check.walk import Walk
from isolane.check.wire import PATIENCE_S, create_http

GENERATOR: Final = "Isolane"
"""Generator that the page names; the page of a host or a proxy names another one."""
_KINDS: Final = {"script": "javascript", "stylesheet": "text/css", "icon": "image/"}
"""Text that the content type of each kind of file must contain, because browsers demand it."""
_REDIRECTS_MAX: Final = 5
_NO_SESSION: Final = {"Cookie": "isolane_session=of-nobody"}
_WITHOUT_PAGE: Final = "a page whose generator is Isolane; --no-page where it isn't to be there"


@dataclass
class _Page(HTMLParser):
    """The parts of a page's HTML that matter here."""

    generator: str = ""
    files: list[tuple[str, str]] = field(default_factory=list)
    """Kind and address of each file that the page loads."""

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the files and the generator that a tag names."""
        said = {name: value or "" for name, value in attrs}
        if tag == "meta" and said.get("name") == "generator":
            self.generator = said.get("content", "")
        elif tag == "script" and "src" in said:
            self.files.append(("script", said["src"]))
        elif tag == "link" and said.get("rel") in _KINDS:
            self.files.append((said["rel"], said.get("href", "")))


async def check_page(walk: Walk) -> str:
    """The page is there with its files, and may use the sessions of its visitors."""
    if not walk.request.has_page:
        raise Skipped("--no-page was given")
    target = walk.request.target
    async with create_http(target, walk.tls, None) as http:
        home = f"{http.base_url}".rstrip("/") + "/"
        count = await _check_loads(http, await _get(http, home))
        await _check_bare(http, home)
        await _check_origin(http, home)
    return f"the page and the {count} files that it loads; its origin is the gateway's own"


async def _check_loads(http: httpx.AsyncClient, answer: httpx.Response) -> int:
    """Return the number of files that a page loads.

    Raises:
        Broken: A browser would show nothing.
    """
    url = str(answer.url)
    page = _Page()
    page.feed(answer.text)
    is_html = answer.headers.get("content-type", "").startswith("text/html")
    if answer.status_code != HTTPStatus.OK or not is_html or page.generator != GENERATOR:
        raise Broken(
            "the page is not there", sent=f"GET {url}", came=_show(answer), expected=_WITHOUT_PAGE
        ) from Below(_blame(answer, is_html=is_html))
    if "script" not in {kind for kind, _ in page.files}:
        raise Broken("the page loads no script", sent=f"GET {url}", came=answer.text)
    order = list(_KINDS)  # the script first, because without it the page is blank
    for kind, address in sorted(page.files, key=lambda file: order.index(file[0])):
        await _check_file(http, urljoin(url, address), kind)
    return len(page.files)


def _blame(answer: httpx.Response, *, is_html: bool) -> str:
    if answer.status_code == HTTPStatus.OK and is_html:
        return "something else answers there with a page of its own"
    if "not built" in answer.text:
        return "the gateway was installed without its page"
    return "something on the way doesn't pass the page's address on to the gateway"


async def _check_file(http: httpx.AsyncClient, url: str, kind: str) -> None:
    answer = await _get(http, url)
    wanted, came = _KINDS[kind], answer.headers.get("content-type", "")
    if answer.status_code == HTTPStatus.OK and wanted in came and answer.content:
        return
    raise Broken(
        f"the page stays blank: its {kind} does not load"
        if kind == "script"
        else f"the page's {kind} does not load",
        sent=f"GET {url}",
        came=_show(answer),
        expected=f"200 with a content type that holds {wanted}",
    ) from Below(
        "something else answers for files that it doesn't know"
        if answer.status_code == HTTPStatus.OK
        else "the proxy hides the path that the page is below: ISOLANE_PUBLIC_URL says it"
    )


async def _check_bare(http: httpx.AsyncClient, home: str) -> None:
    """The address without its slash shows the page too."""
    if urlsplit(home).path == "/":
        return
    answer = await _get(http, home.rstrip("/"))
    for _ in range(_REDIRECTS_MAX):
        if not answer.is_redirect:
            break
        answer = await _get(http, str(answer.url.join(answer.headers["location"])))
        if not str(answer.url).startswith(home):
            raise Broken(
                "the page's address without its slash leads elsewhere",
                sent=f"GET {home.rstrip('/')}",
                came=f"a redirect to {answer.url}",
                expected=f"a redirect to {home}",
            ) from Below("a proxy hides the gateway's address: ISOLANE_PUBLIC_URL says it")
    if answer.status_code == HTTPStatus.OK:
        await _check_loads(http, answer)


async def _check_origin(http: httpx.AsyncClient, home: str) -> None:
    """The gateway knows its own address, because otherwise it refuses its own page's sessions."""
    parts = urlsplit(home)
    origin = f"{parts.scheme}://{parts.netloc}"
    headers = {**_NO_SESSION, "Origin": origin}
    answer = await _get(http, f"{home}api/session", method="DELETE", headers=headers)
    if answer.status_code == HTTPStatus.FORBIDDEN:
        raise Broken(
            "the gateway takes its own page for a foreign one, and refuses to sign anybody in",
            sent=f"DELETE {home}api/session, Origin {origin}",
            came=_show(answer),
            expected="204",
        ) from Below(
            "a proxy hides scheme or host: ISOLANE_PUBLIC_URL says them, or X-Forwarded-Proto and"
            " Host from one of ISOLANE_TRUSTED_PROXIES"
        )


async def _get(
    http: httpx.AsyncClient, url: str, *, method: str = "GET", headers: dict[str, str] | None = None
) -> httpx.Response:
    try:
        return await http.request(method, url, headers=headers)
    except httpx.HTTPError as error:
        came = str(error) or f"nothing in {PATIENCE_S:g} s"
        raise Broken(f"{method} failed", sent=f"{method} {url}", came=came) from error


def _show(answer: httpx.Response) -> str:
    kind = answer.headers.get("content-type", "no content type")
    return f"{answer.status_code}, {kind}: {answer.text[:200]}"
