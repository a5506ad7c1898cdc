"""Makes `docs/page.png`: `python -m tests.browser.picture`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from playwright.async_api import expect
from tests.browser.device import Device, open_device, running_browser
from tests.browser.gateway import running_gateway

PICTURE: Final = Path(__file__).parents[2] / "docs" / "page.png"
USER: Final = "mara"
QUESTIONS: Final = (
    "How long does a session last?",
    "Which limits can I set?",
    "How do I mount Isolane in my app?",
    "How do I write an agent?",
    "How do I stop a run?",
    "What happens when my connection drops?",
)
"""The last is the one that is seen, with its answer."""


async def main() -> None:
    """Ask the guide, and keep what is seen then."""
    with TemporaryDirectory() as folder:
        async with running_gateway(Path(folder) / "data") as gateway, running_browser() as browser:
            device = await open_device(browser, gateway.url)
            await device.page.set_viewport_size({"width": 1280, "height": 820})
            await device.sign_in(await gateway.new_user(USER))
            for question in QUESTIONS:
                await ask_anew(device, question)
            await device.field.hover()  # nothing else shall look touched
            await device.page.screenshot(path=PICTURE)


async def ask_anew(device: Device, question: str) -> None:
    """Ask in a conversation of its own, and wait for the answer."""
    await device.see("new-thread").click()
    await expect(device.see("empty")).to_be_visible()
    await device.ask(question)
    await expect(device.see("tool-card")).to_have_attribute("data-state", "done")
    await device.ended()


if __name__ == "__main__":
    asyncio.run(main())
