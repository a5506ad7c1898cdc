"""Two people at once: each sees only their own."""

from __future__ import annotations

import pytest
from playwright.async_api import expect
from tests.browser.conftest import Visit
from tests.browser.device import Device
from tests.browser.gateway import Gateway

pytestmark = pytest.mark.asyncio(loop_scope="session")

NOT_THERE = r"status of 404 \(Not Found\) http://[^/]+/api/threads/"


async def test_alice_and_bob_never_meet(paced: Gateway, visit: Visit) -> None:
    for name in ("alice", "bob"):
        await paced.new_user(name)
    alice, bob = await visit(paced.url), await visit(paced.url)
    lanes = {"alice": (alice, "heliotrope"), "bob": (bob, "marmalade")}
    for user, (device, word) in lanes.items():
        await device.sign_in(user)
        await device.ask(f"Say {word} until noon")
    for user, (device, word) in lanes.items():
        # Both are under way: each has heard the first half of their own answer.
        await expect(device.words).to_have_text(f"{user} says {word},")
        await device.ended("running")
    for user, (device, word) in lanes.items():
        paced.open_gate(user, "noon")
        await device.ended()
        await expect(device.words).to_contain_text(f"and {user} says it again: {word}.")
        await expect(device.see("user")).to_have_text(user)
        await expect(device.see("thread")).to_have_count(1)
    await assert_nothing_of(alice, "bob", "marmalade", await bob.thread_id())
    await assert_nothing_of(bob, "alice", "heliotrope", await alice.thread_id())


async def test_anothers_thread_is_as_missing_as_none(paced: Gateway, visit: Visit) -> None:
    owner, other = await paced.new_user(), await paced.new_user()
    mine, theirs = await visit(paced.url), await visit(paced.url)
    await mine.sign_in(owner)
    await mine.ask("Say periwinkle")
    await mine.ended()
    await theirs.sign_in(other)
    theirs.watch.forgiven.append(NOT_THERE)
    told = []
    for thread_id in (await mine.thread_id(), "no-such-thread"):
        await theirs.visit_thread(thread_id)
        await expect(theirs.see("missing")).to_be_visible()
        told.append(await theirs.page.locator("main").inner_text())
    assert told[0] == told[1]
    await expect(theirs.field).to_be_disabled()
    await expect(theirs.see("thread")).to_have_count(0)
    await assert_nothing_of(theirs, owner, "periwinkle")


async def test_demo_links_open_a_lane_each_and_once(guided: Gateway, visit: Visit) -> None:
    for user in ("alice", "bob"):
        device = await visit(guided.url)
        link = guided.url + guided.links[user]
        for _ in range(2):  # as whoever looks where a link leads, before a person follows it
            looked = await device.page.request.head(link, max_redirects=0)
            assert (looked.status, "set-cookie" in looked.headers) == (303, False)
        await device.page.goto(link)
        await device.is_connected()
        await expect(device.see("user")).to_have_text(user)
        await expect(device.page).to_have_url(f"{guided.url}/")  # the code is not left behind
    stranger = await visit(guided.url)
    await stranger.page.goto(guided.url + guided.links["alice"])  # it has been used
    await expect(stranger.see("signin")).to_be_visible()


async def test_signing_in_takes_the_right_password(paced: Gateway, visit: Visit) -> None:
    user = await paced.new_user()
    device = await visit(paced.url)
    device.watch.forgiven.append(r"status of 401 \(Unauthorized\) http://[^/]+/api/session$")
    await device.page.goto(paced.url)
    await expect(device.see("signin")).to_be_visible()
    await device.keep_shot("sign-in")
    await device.page.get_by_label("Name").fill(user)
    await device.page.get_by_label("Password").fill("not the password")
    await device.page.keyboard.press("Enter")
    await expect(device.page.get_by_role("alert")).to_have_text("Name and password don't match.")
    await device.keep_shot("sign-in-refused")
    await device.sign_in(user)
    await expect(device.see("empty")).to_be_visible()
    await device.keep_shot("empty")


async def test_sign_out_leaves_nothing_to_the_next(paced: Gateway, visit: Visit) -> None:
    first, second = await paced.new_user(), await paced.new_user()
    device, elsewhere = await visit(paced.url), await visit(paced.url)
    for one in (device, elsewhere):
        await one.sign_in(first)
    await device.ask("Say cinnabar")
    await device.ended()
    await device.field.fill("a draft about verdigris")
    await device.page.reload()
    await expect(device.field).to_have_value("a draft about verdigris")
    tab = await device.new_tab()
    await tab.ended()
    device.watch.forgiven.extend([r"status of 401", NOT_THERE])
    await device.button("Sign out").click()
    for page in (device, tab):
        await expect(page.see("signin")).to_be_visible()
        await expect(page.page.get_by_text("cinnabar")).to_have_count(0)
    assert "verdigris" not in str(await device.page.evaluate("Object.values(localStorage)"))
    device.watch.frames.clear()
    await device.page.go_back()
    await expect(device.see("signin")).to_be_visible()
    await device.sign_in(second)
    await expect(tab.see("user")).to_have_text(second)  # the other tab follows
    held = str(await device.page.evaluate("document.documentElement.outerHTML"))
    for frame in (held, *device.watch.frames):
        assert "cinnabar" not in frame
        assert "verdigris" not in frame
    await elsewhere.is_connected()  # another device of the first is not signed out
    await expect(elsewhere.see("thread")).to_have_count(1)


async def assert_nothing_of(device: Device, *words: str) -> None:
    """Fail when the device holds, or was ever sent, any of the words."""
    everything = await device.everything()
    assert '"threads":[' in await device.watch.bodies()
    assert await device.see("user").inner_text() in everything
    for word in words:
        assert word not in everything
