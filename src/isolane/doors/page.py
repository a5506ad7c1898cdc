"""The chat page: built files, served with the strictest policy under which they work."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from isolane.doors.outside import get_home

PACKAGED: Final = Path(__file__).parent.parent / "page"
BUILT: Final = Path(__file__).parents[3] / "page" / "dist"
"""Folder of the built page in a checkout; an installed package has a copy of its own."""

# `BrowserRules` adds the headers of every answer.
SECURITY_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'self'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'self'; object-src 'none'"
    ),
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}

MISSING: Final = (
    "The chat page is not part of this installation: in a checkout build it with `make page`, "
    "else install a complete package with `pip install --force-reinstall isolane`."
)

router = APIRouter()


def find_page() -> Path | None:
    """Return the folder of the built page, or None without one."""
    for folder in (PACKAGED, BUILT):
        if (folder / "index.html").is_file():
            return folder
    return None


@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def page(request: Request) -> Response:
    """Serve the page itself, which is never cached.

    Its addresses are relative. Where its path is known, the page names it, because a proxy that
    strips paths may serve it without the slash at the end.
    """
    folder = find_page()
    if folder is None:
        return PlainTextResponse(f"{MISSING}\n", status_code=404)
    headers = {**SECURITY_HEADERS, "cache-control": "no-cache"}
    home = get_home(request.scope)
    if home == "/":
        return FileResponse(folder / "index.html", headers=headers)
    text = (folder / "index.html").read_text()
    return HTMLResponse(text.replace('"./', f'"{escape(home)}'), headers=headers)


class Assets(StaticFiles):
    """The page's other files. Their names have their hashes, so a file never changes."""

    def __init__(self) -> None:
        """Serve from the page's folder, also when the page is built after the start."""
        super().__init__(directory=BUILT, check_dir=False)

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        """Look a file up in the page's folder at this moment."""
        self.all_directories = [find_page() or BUILT]
        return super().lookup_path(path)

    async def check_config(self) -> None:
        """Accept a missing folder, because a page that isn't built is no error."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Serve one file."""
        response = await super().get_response(f"assets/{path}", scope)
        response.headers.update(
            {**SECURITY_HEADERS, "cache-control": "max-age=31536000, immutable"}
        )
        return response
