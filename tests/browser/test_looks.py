"""A phone, the dark, and a keyboard alone."""

from __future__ import annotations

import pytest
from playwright.async_api import Locator, ViewportSize, expect
from tests.browser.conftest import Visit
from tests.browser.device import PHONE, Device
from tests.browser.gateway import PASSWORD, Gateway
from tests.browser.test_answers import counted

pytestmark = pytest.mark.asyncio(loop_scope="session")

MOST_TABS = 40
SMALL_PHONE: ViewportSize = {"width": 360, "height": 640}
LIGHTNESS = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d");
  canvas.fillStyle = getComputedStyle(document.documentElement).backgroundColor;
  canvas.fillRect(0, 0, 1, 1);
  return canvas.getImageData(0, 0, 1, 1).data[0];
}"""
DIRECTIONS = """(element) => [...element.querySelectorAll("h2, p, li, blockquote, pre, code")].map(
  (one) => [one.tagName, getComputedStyle(one).direction])"""
FORMULAS = r"$x_1*y_1*z$ and \(\frac{1}{2}\), for $5 or $10 😀"
HEBREW = f"""## שלום

המשתנה `a_1 = 2` הוא מספר

- שלום עולם
- hello world

> מי שם?

```py
print("שלום")
```

{FORMULAS}"""
RING = """(element) => {
  const { outlineStyle, outlineWidth, boxShadow, borderColor } = getComputedStyle(element);
  const ringed = outlineStyle !== "none" && parseFloat(outlineWidth) > 0;
  const field = element.closest(".field");
  return ringed || boxShadow !== "none" || (field !== null &&
    getComputedStyle(field).boxShadow !== "none");
}"""


async def test_phone_has_a_drawer_and_nothing_sticks_out(paced: Gateway, visit: Visit) -> None:
    device = await visit(paced.url, is_phone=True)
    await device.page.goto(device.base)
    await expect(device.see("signin")).to_be_visible()
    await assert_fits(device)
    await device.keep_shot("phone-sign-in")
    await device.sign_in(await paced.new_user())
    await expect(device.see("new-thread")).not_to_be_in_viewport()
    await device.ask("Plan a walk")
    await device.ended()
    await assert_fits(device)
    await expect(device.field).to_be_in_viewport()
    await device.keep_shot("phone")
    await device.button("Conversations").tap()
    await expect(device.see("new-thread")).to_be_in_viewport(ratio=1)
    await expect(device.see("thread")).to_be_in_viewport(ratio=1)
    await device.keep_shot("phone-drawer")
    await assert_fits(device)
    # A finger doesn't hover: what can be done with a thread is there without.
    await expect(device.see("thread").locator(".acts")).to_have_css("opacity", "1")
    await device.page.touchscreen.tap(PHONE["width"] - 20, 500)  # beside the drawer
    await expect(device.see("new-thread")).not_to_be_in_viewport()
    await device.button("Conversations").tap()
    await device.see("new-thread").tap()
    await expect(device.see("new-thread")).not_to_be_in_viewport()
    await expect(device.see("empty")).to_be_visible()


async def test_tap_at_the_end_of_a_row_opens_it_on_a_small_phone(
    paced: Gateway, visit: Visit
) -> None:
    device = await visit(paced.url, is_phone=True)
    await device.page.set_viewport_size(SMALL_PHONE)
    await device.sign_in(await paced.new_user())
    threads: list[str] = []
    for question in ("Count to 3", "Say a very long word: " + "donaudampfschiff" * 6):
        await device.ask(question)
        await device.ended()
        threads.append(await device.thread_id())
        await device.button("Conversations").tap()
        await device.see("new-thread").tap()
        await expect(device.see("empty")).to_be_visible()
    for thread_id in (*threads, threads[-1]):  # the last one is open already
        await device.button("Conversations").tap()
        link = device.thread(thread_id).get_by_role("link")
        await link.tap(trial=True)  # the drawer stands
        await assert_fits(device, SMALL_PHONE["width"])
        box = await link.bounding_box()
        assert box is not None
        await device.page.touchscreen.tap(
            box["x"] + box["width"] - 14, box["y"] + box["height"] / 2
        )
        await expect(device.see("new-thread")).not_to_be_in_viewport()
        await expect(device.see("delete-dialog")).to_have_count(0)
        assert await device.thread_id() == thread_id
    await device.button("Conversations").tap()
    row = device.thread(threads[-1])
    await row.get_by_role("button", name="Delete").tap(trial=True)  # the drawer stands
    await device.keep_shot("small-phone-drawer")
    await row.get_by_role("button", name="Delete").tap()
    await expect(device.see("delete-dialog")).to_be_visible()
    await device.keep_shot("small-phone-delete")
    await device.button("Delete", inside=device.see("delete-dialog")).tap()
    await expect(device.see("thread")).to_have_count(1)


async def test_words_stand_where_they_begin_and_formulas_as_they_are(
    paced: Gateway, visit: Visit
) -> None:
    device = await visit(paced.url, is_phone=True, is_dark=True)
    await device.page.set_viewport_size(SMALL_PHONE)
    await device.sign_in(await paced.new_user())
    await device.field.fill(HEBREW)
    await expect(device.field).to_have_css("direction", "rtl")
    await device.see("send").tap()
    await device.ended()
    directions = await device.words.evaluate(DIRECTIONS)
    assert directions == [
        ["H2", "rtl"],
        ["P", "rtl"],
        ["CODE", "ltr"],
        ["LI", "rtl"],
        ["LI", "ltr"],
        ["BLOCKQUOTE", "rtl"],
        ["P", "rtl"],
        ["PRE", "ltr"],
        ["CODE", "ltr"],
        ["P", "ltr"],
    ]
    assert FORMULAS in await device.said()
    for place in (device.see("title"), device.see("thread").locator(".title")):
        await expect(place).to_have_css("direction", "rtl")
    await expect(device.questions.locator(".bubble")).to_have_css("direction", "rtl")
    await assert_fits(device, SMALL_PHONE["width"])
    await device.keep_shot("right-to-left")
    # As at 200 %: half of a desk's window in points of its own.
    await device.page.set_viewport_size({"width": 590, "height": 390})
    await assert_fits(device, 590)
    await device.keep_shot("right-to-left-zoomed")


async def test_dark_follows_the_system_and_the_button(paced: Gateway, visit: Visit) -> None:
    user = await paced.new_user()
    device = await visit(paced.url, is_dark=True)
    await device.sign_in(user)
    await device.ask("Plan a walk")
    await device.ended()
    assert await device.page.evaluate(LIGHTNESS) < 64
    await device.keep_shot("dark")
    theme = device.see("theme")
    await theme.click()
    await expect(theme).to_have_accessible_name("Theme: light")
    assert await device.page.evaluate(LIGHTNESS) > 192
    await device.page.reload()
    await device.ended()
    assert await device.page.evaluate(LIGHTNESS) > 192  # it is remembered
    await theme.click()
    await expect(theme).to_have_accessible_name("Theme: dark")
    await device.page.emulate_media(color_scheme="light")
    assert await device.page.evaluate(LIGHTNESS) < 64


async def test_keyboard_is_enough(paced: Gateway, visit: Visit) -> None:
    user = await paced.new_user()
    device = await visit(paced.url)
    keys = device.page.keyboard
    await device.page.goto(device.base)
    await expect(device.page.get_by_label("Name")).to_be_focused()
    await keys.type(user)
    await tab_to(device, device.page.get_by_label("Password"))
    await keys.type(PASSWORD)
    await keys.press("Enter")
    await device.is_connected()
    await expect(device.field).to_be_focused()
    await keys.type("Plan a walk")
    await keys.press("Shift+Enter")
    await keys.type("with the dog until never")
    await keys.press("Enter")
    card = device.see("tool-card")
    await expect(card).to_have_attribute("data-state", "running")
    await tab_to(device, card.locator("summary"), back=True)
    await keys.press("Enter")
    await expect(device.see("tool-args")).to_be_visible()
    await keys.press("Escape")
    await device.ended("stopped")
    # The list: rename, then delete.
    entry = device.thread(await device.thread_id())
    await tab_to(device, entry.get_by_role("button", name="Rename"), back=True)
    await keys.press("Enter")
    await keys.type("Walks")
    await keys.press("Enter")
    await expect(entry.locator(".title")).to_have_text("Walks")
    await tab_to(device, device.see("new-thread"))
    await keys.press("Enter")
    await expect(device.see("empty")).to_be_visible()
    await expect(device.field).to_be_focused()
    await keys.type("Count to 3")
    await keys.press("Enter")
    await device.ended()
    assert await device.said() == counted(3)
    await tab_to(device, entry.get_by_role("button", name="Delete"))
    await keys.press("Enter")
    dialog = device.see("delete-dialog")
    await expect(dialog).to_be_visible()
    await tab_to(device, device.button("Delete", inside=dialog))
    await keys.press("Enter")
    await expect(device.see("thread")).to_have_count(1)
    await tab_to(device, device.button("Sign out"))
    await keys.press("Enter")
    await expect(device.see("signin")).to_be_visible()


async def tab_to(device: Device, goal: Locator, *, back: bool = False) -> None:
    """Press Tab until `goal` has the focus, and see that one sees it."""
    await goal.wait_for(state="attached")
    for _ in range(MOST_TABS):
        await device.page.keyboard.press("Shift+Tab" if back else "Tab")
        if await goal.evaluate("(element) => element === document.activeElement"):
            assert await goal.evaluate(RING), f"{goal} has the focus, and nobody sees it"
            return
    raise AssertionError(f"{MOST_TABS} tabs don't lead to {goal}")


async def assert_fits(device: Device, most: int = PHONE["width"]) -> None:
    """Fail when the page is wider than the window."""
    width = await device.page.evaluate("document.documentElement.scrollWidth")
    assert width <= most
