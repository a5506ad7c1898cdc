"""The chat page: built files, served with the strictest policy that they work under."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from fastapi import APIRouter
from fastapi.responses import FileResponse, PlainTextResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

PACKAGED: Final = Path(__file__).parent.parent / "page"
BUILT: Final = Path(__file__).parents[3] / "page" / "dist"
"""Where a checkout has it; an installed package has its own copy."""

SECURITY_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'self'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'; form-action 'self'; "
        "object-src 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}

router = APIRouter()


def find_page() -> Path | None:
    """Return the folder of the built page, None where nobody built it."""
    for folder in (PACKAGED, BUILT):
        if (folder / "index.html").is_file():
            return folder
    return None


@router.get("/", include_in_schema=False)
async def page() -> Response:
    """Serve the page itself, which is never cached."""
    folder = find_page()
    if folder is None:
        return PlainTextResponse(
            "The page is not built here; `make page` builds it.", status_code=404
        )
    headers = {**SECURITY_HEADERS, "cache-control": "no-cache"}
    return FileResponse(folder / "index.html", headers=headers)


class Assets(StaticFiles):
    """The page's other files; their names hold their digests, so they never change."""

    def __init__(self) -> None:
        """Serve from wherever the page is, also when it is built after the start."""
        super().__init__(directory=BUILT, check_dir=False)

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        """Look where the page is now."""
        self.all_directories = [find_page() or BUILT]
        return super().lookup_path(path)

    async def check_config(self) -> None:
        """Demand nothing: what nobody built isn't there, which is no fault."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Serve one file."""
        response = await super().get_response(f"assets/{path}", scope)
        response.headers.update(
            {**SECURITY_HEADERS, "cache-control": "max-age=31536000, immutable"}
        )
        return response
