"""The list of conversations: renaming and deleting, seen on every device."""

from __future__ import annotations

import pytest
from playwright.async_api import expect
from tests.browser.conftest import Visit
from tests.browser.device import Device
from tests.browser.gateway import Gateway
from tests.browser.test_answers import counted

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_new_name_is_seen_everywhere(paced: Gateway, visit: Visit) -> None:
    desk, other = await two_devices(paced, visit)
    thread_id = await desk.thread_id()
    entry = desk.thread(thread_id)
    await entry.hover()
    await entry.get_by_role("button", name="Rename").click()
    await desk.page.get_by_label("New title").fill("My numbers")
    await desk.page.keyboard.press("Enter")
    for device in (desk, other):
        await expect(device.thread(thread_id).locator(".title")).to_have_text("My numbers")
    await expect(desk.see("title")).to_have_text("My numbers")
    await expect(desk.page).to_have_title("My numbers · Isolane")
    await desk.page.reload()
    await expect(desk.see("title")).to_have_text("My numbers")


async def test_deleted_thread_is_gone_everywhere(paced: Gateway, visit: Visit) -> None:
    desk, other = await two_devices(paced, visit)
    thread_id = await desk.thread_id()
    await other.visit_thread(thread_id)
    await other.ended()
    entry = desk.thread(thread_id)
    await entry.hover()
    await entry.get_by_role("button", name="Delete").click()
    await expect(desk.see("delete-dialog")).to_be_visible()
    await desk.keep_shot("deleting")
    await desk.button("Keep").click()
    await expect(desk.see("delete-dialog")).to_have_count(0)
    await entry.hover()
    await entry.get_by_role("button", name="Delete").click()
    await desk.button("Delete", inside=desk.see("delete-dialog")).click()
    for device in (desk, other):
        await expect(device.thread(thread_id)).to_have_count(0)
        await expect(device.see("empty")).to_be_visible()
    await expect(other.see("notice")).to_contain_text("deleted")
    desk.watch.forgiven.append(r"status of 404 \(Not Found\) http://[^/]+/api/threads/")
    await desk.visit_thread(thread_id)
    await expect(desk.see("missing")).to_be_visible()


async def test_each_thread_keeps_its_own_words(paced: Gateway, visit: Visit) -> None:
    device = await visit(paced.url)
    await device.sign_in(await paced.new_user())
    ids: list[str] = []
    for most in (3, 5):
        await device.see("new-thread").click()
        await expect(device.see("empty")).to_be_visible()
        await device.ask(f"Count to {most}")
        await device.ended()
        ids.append(await device.thread_id())
    await device.field.fill("a draft")
    await device.thread(ids[0]).get_by_role("link").click()
    await expect(device.words).to_have_text(counted(3))
    await expect(device.field).to_have_value("")
    await expect(device.thread(ids[0]).get_by_role("link")).to_have_attribute(
        "aria-current", "page"
    )
    await device.page.go_back()
    await expect(device.words).to_have_text(counted(5))
    await expect(device.field).to_have_value("a draft")


async def two_devices(paced: Gateway, visit: Visit) -> tuple[Device, Device]:
    """Return two devices of one user, who has asked something on the first."""
    user = await paced.new_user()
    desk, other = await visit(paced.url), await visit(paced.url)
    for device in (desk, other):
        await device.sign_in(user)
    await desk.ask("Count to 3")
    await desk.ended()
    return desk, other
