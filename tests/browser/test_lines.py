"""Lines that break, pages that are loaded again, and several views of one answer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.async_api import expect
from tests.browser.conftest import Visit
from tests.browser.device import LINE_LOST, Device
from tests.browser.gateway import Gateway, running_gateway
from tests.browser.swallowing import swallowing_proxy_to
from tests.browser.test_answers import counted
from tests.live.proxy import Proxy, proxy_to

pytestmark = pytest.mark.asyncio(loop_scope="session")

CONTENT = b'"type":"TEXT_MESSAGE_CONTENT"'


async def test_cut_answer_comes_whole_and_once(paced: Gateway, line: Proxy, visit: Visit) -> None:
    device = await behind(line, visit, await paced.new_user())
    line.cut_after(CONTENT, 7, 30, 1, 60)
    await device.ask("Count to 150")
    await device.ended()
    assert line.cuts == 4
    assert await device.said() == counted(150)
    await device.page.reload()
    await expect(device.words).to_have_text(counted(150))


async def test_cut_answer_of_the_guide_is_the_uncut_one(guided: Gateway, visit: Visit) -> None:
    question = "What happens to a run when the connection drops?"
    async with proxy_to(guided.port) as line:
        device = await behind(line, visit, await guided.new_user())
        await device.ask(question)
        await device.ended()
        uncut = await device.said()
        await device.see("new-thread").click()
        await expect(device.see("empty")).to_be_visible()
        line.cut_after(CONTENT, 3, 5)
        await device.ask(question)
        await device.ended()
        assert line.cuts == 2
        assert await device.said() == uncut
        await expect(device.see("tool-card")).to_have_count(1)


async def test_page_says_that_it_reconnects_and_what_it_caught_up(
    paced: Gateway, line: Proxy, visit: Visit
) -> None:
    user = await paced.new_user()
    device, witness = await behind(line, visit, user), await visit(paced.url)
    await device.ask("Count to 60 with a rest at 25 until noon")
    await expect(device.words).to_have_text(counted(25))
    line.refuse()
    line.cut()
    await expect(device.connection).to_have_attribute("data-state", "reconnecting")
    await device.keep_shot("reconnecting")
    paced.open_gate(user, "noon")
    await witness.sign_in(user)
    await witness.visit_thread(await device.thread_id())
    await witness.ended()
    assert await device.said() == counted(25)
    line.accept()
    await device.ended()
    # 35 words, the message's end, and the run's.
    await expect(device.connection).to_have_text(re.compile("Connected.*caught up 37 events"))
    assert await device.said() == counted(60)
    await device.keep_shot("caught-up")


@pytest.mark.parametrize(
    "event",
    [
        'document.dispatchEvent(new Event("visibilitychange"))',
        'window.dispatchEvent(new PageTransitionEvent("pageshow", {persisted: true}))',
    ],
)
async def test_page_back_from_sleep_replaces_its_dead_socket(
    paced: Gateway, visit: Visit, event: str
) -> None:
    """By its heartbeats alone it would see that after 50 s, which is longer than is waited here."""
    user = await paced.new_user()
    async with swallowing_proxy_to(paced.port) as line:
        device = await visit(f"http://{line.address}")
        device.watch.forgiven.append(LINE_LOST)
        await device.sign_in(user)
        await device.ask("Count to 60 with a rest at 25 until noon")
        await expect(device.words).to_have_text(counted(25))
        line.swallow()
        paced.open_gate(user, "noon")
        witness = await visit(paced.url)
        await witness.sign_in(user)
        await witness.visit_thread(await device.thread_id())
        await witness.ended()
        await expect(device.connection).to_have_attribute("data-state", "connected")
        assert await device.said() == counted(25)
        await device.page.evaluate(event)
        await device.ended()
        await device.is_connected()
        assert await device.said() == counted(60)
        await expect(device.questions).to_have_count(1)
        await device.ask("Count to 3")
        await expect(device.see("answer")).to_have_count(2)
        await device.ended()
        await device.page.close()


async def test_question_asked_while_cut_is_answered_once(
    paced: Gateway, line: Proxy, visit: Visit
) -> None:
    device = await behind(line, visit, await paced.new_user())
    line.refuse()
    line.cut()
    await expect(device.connection).to_have_attribute("data-state", "reconnecting")
    await device.ask("Count to 12")
    await expect(device.questions).to_have_attribute("data-pending", "true")
    line.accept()
    await device.ended()
    await expect(device.questions).to_have_text(["Count to 12"])
    await expect(device.see("answer").locator(".prose")).to_have_text([counted(12)])


async def test_reload_in_mid_answer_loses_nothing(paced: Gateway, visit: Visit) -> None:
    user = await paced.new_user()
    device = await visit(paced.url)
    await device.sign_in(user)
    await device.ask("Plan a walk until noon")
    await expect(device.see("tool-card")).to_have_attribute("data-state", "running")
    await device.page.reload()
    await expect(device.questions).to_have_text(["Plan a walk until noon"])
    await expect(device.see("tool-card")).to_have_attribute("data-state", "running")
    await device.ended("running")
    paced.open_gate(user, "noon")
    await expect(device.words).to_contain_text("Three hours")
    await device.page.reload()  # in the midst of its words
    await device.ended()
    whole = await device.said()
    assert whole.startswith("Three hours are enough")
    assert whole.endswith("the lower one is under water.")
    await device.page.reload()
    await device.ended()
    assert await device.said() == whole


async def test_tab_and_second_device_follow_live(paced: Gateway, visit: Visit) -> None:
    user = await paced.new_user()
    desk, phone = await visit(paced.url), await visit(paced.url, is_phone=True)
    for device in (desk, phone):
        await device.sign_in(user)
    await desk.ask("Count to 60 with a rest at 25 until noon")
    thread_id = await desk.thread_id()
    # The other device is told of the thread that begins, and opens it from its list.
    await expect(phone.thread(thread_id)).to_have_attribute("data-running", "true")
    await phone.button("Conversations").click()
    await phone.thread(thread_id).get_by_role("link").click()
    tab = await desk.new_tab()
    for view in (desk, tab, phone):
        await expect(view.words).to_have_text(counted(25))
        await view.ended("running")
    paced.open_gate(user, "noon")
    for view in (desk, tab, phone):
        await view.ended()
        assert await view.said() == counted(60)
    # And the other way round: asked on the phone, stopped at the desk.
    await phone.ask("Count to 9 with a rest at 4 until never")
    for view in (desk, tab):
        await expect(view.questions).to_have_count(2)
        await expect(view.words).to_have_text(counted(4))
    await desk.see("stop").click()
    for view in (desk, tab, phone):
        await view.ended("stopped")
        await expect(view.see("answer")).to_have_count(2)


async def test_killed_server_leaves_no_spinner(tmp_path: Path, visit: Visit) -> None:
    async with running_gateway(tmp_path / "data", "paced:paced") as gateway:
        device = await visit(gateway.url)
        device.watch.forgiven.append(LINE_LOST)
        await device.sign_in(await gateway.new_user())
        await device.ask("Count to 60 with a rest at 25 until never")
        await expect(device.words).to_have_text(counted(25))
        await gateway.kill()
        await expect(device.connection).to_have_attribute("data-state", "reconnecting")
        await gateway.start()
        await device.ended("failed")
        await expect(device.see("run-error")).to_contain_text("agent_lost")
        assert await device.said() == counted(25)
        await device.ask("Count to 3")
        await expect(device.see("answer")).to_have_count(2)
        await device.ended()


async def test_restart_in_order_says_no_error(tmp_path: Path, visit: Visit) -> None:
    async with running_gateway(tmp_path / "data", "paced:paced") as gateway:
        device = await visit(gateway.url)
        device.watch.forgiven.append(LINE_LOST)
        await device.sign_in(await gateway.new_user())
        await device.ask("Count to 3")
        await device.ended()
        await gateway.stop()
        await expect(device.connection).to_have_attribute("data-state", "reconnecting")
        await expect(device.see("notice")).to_have_count(0)
        await gateway.start()
        await device.is_connected()
        await expect(device.see("thread")).to_have_count(1)
        await device.ask("Count to 4")
        await expect(device.see("answer")).to_have_count(2)
        await device.ended()
        await expect(device.see("notice")).to_have_count(0)


async def behind(line: Proxy, visit: Visit, user: str) -> Device:
    """Return a device of the user that is behind the line."""
    device = await visit(f"http://{line.address}")
    device.watch.forgiven.append(LINE_LOST)
    await device.sign_in(user)
    return device
