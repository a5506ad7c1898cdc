"""Who gets in, which way, and who is put out again: at a provider's own pages, on real devices."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import parse_qs, urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import Locator, expect
from tests.browser.conftest import Visit
from tests.browser.device import Device
from tests.browser.gateway import PASSWORD, Gateway, running_gateway
from tests.browser.test_answers import counted
from tests.browser.test_looks import LIGHTNESS, assert_fits, tab_to
from tests.live.people import COOKIE
from tests.live.provider import Provider, serving, walk_pages
from tests.live.untold import note

pytestmark = pytest.mark.asyncio(loop_scope="session")

CORP: Final = Provider("corp")
AWAY: Final = Provider("away")
"""Nobody is ever there."""
DIDNT_WORK: Final = "Signing in didn't work."
ENDED: Final = "Your session has ended."
PUT_OUT_MS: Final = 10_000
"""Long before the next heartbeat: a second to close the socket, the rest to draw the page, however
busy the machine is."""
MOST_ATTEMPTS: Final = 30
TOO_MANY: Final = 429


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def open_house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    """Serve people with accounts, and those of a provider; another provider is down."""
    folder = tmp_path_factory.mktemp("house") / "data"
    async with (
        running_gateway(folder, "paced:paced", providers=[CORP, AWAY]) as gateway,
        serving(gateway, CORP),
    ):
        yield gateway


# ---- signing in ------------------------------------------------------------------------------


async def test_person_of_a_provider_signs_in_chats_and_signs_out(
    open_house: Gateway, visit: Visit
) -> None:
    device = await visit(open_house.url)
    await device.sign_in_at("Corp", "ada")
    await expect(device.see("user")).to_have_text("corp|ada")
    assert urlsplit(device.page.url).query == ""
    await device.ask("Count to 3")
    await device.ended()
    assert await device.said() == counted(3)
    await device.page.reload()
    await expect(device.words).to_have_text(counted(3))
    await device.button("Sign out").click()
    await expect(device.see("signin")).to_be_visible()
    assert COOKIE not in {cookie.get("name") for cookie in await device.page.context.cookies()}
    # The provider remembers the person; the gateway asks it anew.
    await device.page.get_by_role("link", name="Sign in with Corp").click()
    await expect(device.see("user")).to_have_text("corp|ada")


async def test_account_is_beside_the_providers(open_house: Gateway, visit: Visit) -> None:
    user = await open_house.new_user("ada")
    device = await visit(open_house.url)
    await device.page.goto(device.base)
    links = device.see("signin").get_by_role("link")
    await expect(links).to_have_text(["Sign in with Corp", "Sign in with Away"])
    await expect(device.page.get_by_label("Name")).to_be_focused()
    await device.keep_shot("sign-in")
    await device.sign_in(user)
    await expect(device.see("user")).to_have_text("ada")
    # The provider's person of the same name is another one.
    other = await visit(open_house.url)
    await other.sign_in_at("Corp", "ada")
    await device.ask("Count to 3")
    await device.ended()
    await expect(device.see("thread")).to_have_count(1)
    await other.page.goto(f"{other.base}/#{await device.thread_id()}")
    other.watch.forgiven.append("status of 404")
    await expect(other.see("missing")).to_be_visible()


async def test_provider_that_is_down_brings_the_person_back(
    open_house: Gateway, visit: Visit
) -> None:
    device = await visit(open_house.url)
    await device.page.goto(device.base)
    await device.page.get_by_role("link", name="Sign in with Away").click()
    sentence = device.see("signin").get_by_role("status")
    await expect(sentence).to_have_text(
        "The sign-in service can't be reached. Try again in a moment."
    )
    await expect(device.page).to_have_url(f"{device.base}/")
    await device.keep_shot("sign-in-failed")
    await device.page.reload()
    await expect(device.see("signin")).to_be_visible()
    await expect(sentence).to_have_count(0)


async def test_too_many_guesses_say_when_to_come_back(open_house: Gateway, visit: Visit) -> None:
    user = await open_house.new_user()
    async with open_house.http() as http:
        for _ in range(MOST_ATTEMPTS):
            given = {"username": user, "password": "a guess at it"}
            answer = await http.post("/api/session", json=given)
            if answer.status_code == TOO_MANY:
                break
    device = await visit(open_house.url)
    device.watch.forgiven.append(f"status of {TOO_MANY}")
    await device.page.goto(device.base)
    await device.page.get_by_label("Name").fill(user)
    await device.page.get_by_label("Password").fill(PASSWORD)
    await device.button("Sign in").click()
    await expect(device.see("signin").get_by_role("alert")).to_contain_text("Too many attempts.")
    await expect(device.see("signin").get_by_role("alert")).to_contain_text("Try again in ")
    await expect(device.button("Sign in")).to_be_enabled()


# ---- answers that are no answers -------------------------------------------------------------


async def find_callback(gateway: Gateway, subject: str) -> str:
    """Sign in at the provider elsewhere; return the address at which it answers, not visited."""
    async with gateway.http() as http:
        address = await walk_pages(
            http, "/signin/corp", subject, until=f"{gateway.url}/signin/corp/callback"
        )
    note(parse_qs(urlsplit(address).query)["code"][0])
    return address


@pytest.mark.parametrize("kind", ["of another browser", "without a state", "an error"])
async def test_forged_answer_signs_nobody_in(open_house: Gateway, visit: Visit, kind: str) -> None:
    callback = f"{open_house.url}/signin/corp/callback"
    address = {
        "of another browser": await find_callback(open_house, "eve"),
        "without a state": f"{callback}?code=made-up",
        "an error": f"{callback}?error=access_denied&state=made-up",
    }[kind]
    device = await visit(open_house.url)
    await device.page.goto(address)
    await expect(device.see("signin").get_by_role("status")).to_contain_text(DIDNT_WORK)
    assert COOKIE not in {cookie.get("name") for cookie in await device.page.context.cookies()}
    # Who is signed in stays who they are.
    user = await open_house.new_user()
    await device.sign_in(user)
    await device.page.goto(address)
    await expect(device.see("notice")).to_contain_text(DIDNT_WORK)
    await expect(device.see("user")).to_have_text(user)


async def test_person_who_declines_at_the_provider_comes_back(
    open_house: Gateway, visit: Visit
) -> None:
    device = await visit(open_house.url)
    await device.page.goto(device.base)
    await device.page.get_by_role("link", name="Sign in with Corp").click()
    await device.page.get_by_role("link", name="Cancel").click()
    await expect(device.see("signin").get_by_role("status")).to_contain_text(DIDNT_WORK)


async def test_answer_signs_in_once(open_house: Gateway, visit: Visit) -> None:
    device = await visit(open_house.url)
    async with device.page.expect_request(lambda request: "/callback?" in request.url) as asked:
        await device.sign_in_at("Corp", "ada")
    await device.button("Sign out").click()
    await expect(device.see("signin")).to_be_visible()
    await device.page.goto((await asked.value).url)
    await expect(device.see("signin").get_by_role("status")).to_contain_text(DIDNT_WORK)


# ---- devices ---------------------------------------------------------------------------------


async def open_devices(device: Device) -> Locator:
    """Open the list of devices."""
    await device.button("Devices").click()
    dialog = device.see("devices")
    await expect(dialog).to_be_visible()
    return dialog


async def assert_put_out(device: Device) -> None:
    """Fail unless the page asks to sign in, soon, and says why."""
    sentence = device.see("signin").get_by_role("status")
    await expect(sentence).to_contain_text(ENDED, timeout=PUT_OUT_MS)


async def test_session_is_ended_from_another_device(open_house: Gateway, visit: Visit) -> None:
    user = await open_house.new_user()
    desk, phone = await visit(open_house.url), await visit(open_house.url, is_phone=True)
    await desk.sign_in(user)
    await phone.sign_in(user)
    await phone.ask("Plan a walk until never")
    await phone.ended("running")
    dialog = await open_devices(desk)
    devices = dialog.get_by_test_id("device")
    await expect(devices).to_have_count(2)
    own, other = (
        devices.and_(desk.page.locator("[data-current=true]")),
        devices.and_(desk.page.locator("[data-current=false]")),
    )
    await expect(own).to_contain_text("Chrome on Linux")
    await expect(own).to_contain_text("This device")
    await expect(other).to_contain_text("last seen just now")
    await desk.keep_shot("devices")
    await other.get_by_role("button").click()
    await assert_put_out(phone)
    await phone.keep_shot("phone-put-out")
    await expect(devices).to_have_count(1)
    await expect(dialog.get_by_role("status")).to_have_text("Chrome on Linux is signed out.")
    await desk.button("Close", inside=dialog).click()
    await expect(dialog).to_have_count(0)
    await expect(desk.button("Devices")).to_be_focused()
    # The person is here still, and so is what the other device began.
    await expect(desk.see("thread")).to_have_attribute("data-running", "true")
    await desk.is_connected()


async def test_signing_out_everywhere_asks_first_and_takes_all(
    open_house: Gateway, visit: Visit
) -> None:
    one, two = await visit(open_house.url), await visit(open_house.url)
    await one.sign_in_at("Corp", "bob")
    await two.sign_in_at("Corp", "bob")
    stranger = await visit(open_house.url)
    await stranger.sign_in(await open_house.new_user())
    dialog = await open_devices(one)
    await one.button("Sign out everywhere", inside=dialog).click()
    sure = one.see("everywhere-dialog")
    await one.keep_shot("everywhere")
    await one.button("Keep", inside=sure).click()
    await expect(sure).to_have_count(0)
    await expect(dialog.get_by_test_id("device")).to_have_count(2)
    await one.button("Sign out everywhere", inside=dialog).click()
    await one.button("Sign out everywhere", inside=sure).click()
    await assert_put_out(two)
    await expect(one.see("signin")).to_be_visible()
    await stranger.is_connected()
    await two.page.get_by_role("link", name="Sign in with Corp").click()
    await expect(two.see("user")).to_have_text("corp|bob")
    await two.is_connected()


async def test_devices_fit_a_phone_and_the_dark(open_house: Gateway, visit: Visit) -> None:
    device = await visit(open_house.url, is_phone=True, is_dark=True)
    await device.page.goto(device.base)
    await expect(device.see("signin")).to_be_visible()
    await assert_fits(device)
    await device.keep_shot("phone-dark-sign-in")
    user = await open_house.new_user()
    await device.sign_in(user)
    other = await visit(open_house.url)
    await other.sign_in(user)
    await device.button("Conversations").tap()
    await device.button("Devices").tap()
    dialog = device.see("devices")
    await expect(dialog.get_by_test_id("device")).to_have_count(2)
    await assert_fits(device)
    assert await device.page.evaluate(LIGHTNESS) < 64
    for button in await dialog.get_by_role("button").all():
        await expect(button).to_be_in_viewport(ratio=1)
    await device.keep_shot("phone-dark-devices")


async def test_keyboard_is_enough_for_the_devices(open_house: Gateway, visit: Visit) -> None:
    user = await open_house.new_user()
    device, other = await visit(open_house.url), await visit(open_house.url)
    await other.sign_in(user)
    await device.sign_in(user)
    keys = device.page.keyboard
    await device.ask("Plan a walk until never")
    await device.ended("running")
    await tab_to(device, device.button("Devices"), back=True)
    await keys.press("Enter")
    dialog = device.see("devices")
    await expect(dialog.get_by_test_id("device")).to_have_count(2)
    await expect(dialog).to_be_focused()  # and not what ends everything
    ends_other = device.button("Sign out Chrome on Linux", inside=dialog)
    await tab_to(device, ends_other)
    await keys.press("Enter")
    await assert_put_out(other)
    await expect(dialog.get_by_test_id("device")).to_have_count(1)
    await tab_to(device, device.button("Sign out everywhere", inside=dialog))
    await keys.press("Enter")
    sure = device.see("everywhere-dialog")
    await expect(device.button("Keep", inside=sure)).to_be_focused()
    await keys.press("Escape")
    await expect(sure).to_have_count(0)
    await expect(dialog).to_be_visible()
    await keys.press("Escape")
    await expect(dialog).to_have_count(0)
    await expect(device.button("Devices")).to_be_focused()
    await device.ended("running")  # Esc was the dialog's, and stopped nothing
