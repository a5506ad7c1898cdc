"""Asking: how an answer comes, is stopped, and is asked for again."""

from __future__ import annotations

import json

import pytest
from playwright.async_api import expect
from tests.browser.conftest import Visit
from tests.browser.device import Device
from tests.browser.gateway import Gateway
from tests.browser.paced import ARGUMENTS, RESULT

pytestmark = pytest.mark.asyncio(loop_scope="session")

ASK_ABOUT_A_PICTURE = """() => new Promise((done) => {
  const source = {type: "data", value: "aGVsbG8=", mimeType: "image/png"};
  const content = [{type: "text", text: "What is it?"}, {type: "image", source}];
  const messages = [{id: "with-picture", role: "user", content}];
  const socket = new WebSocket(new URL("ws", location.href), ["agui.v1"]);
  socket.onopen = () => socket.send(JSON.stringify({threadId: "t-picture", runId: "r", messages}));
  socket.onmessage = ({data}) => data.includes("RUN_FINISHED") && done(socket.close());
})"""
LOAD_MESSAGES = """async (threadId) =>
  (await (await fetch(`api/threads/${threadId}`)).json()).messages"""
COUNT_GROWTH = """() => {
  window.seen = new Set();
  new MutationObserver(() => {
    const answer = document.querySelector("[data-testid=answer]");
    const words = answer?.querySelector(":scope .prose")?.textContent ?? "";
    if (answer?.dataset.state === "running") window.seen.add(words.length);
  }).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""


async def test_guide_streams_its_answer_with_a_tool_card(guided: Gateway, visit: Visit) -> None:
    device = await visit(guided.url)
    await device.sign_in(await guided.new_user())
    await device.page.evaluate(COUNT_GROWTH)
    await device.ask("What happens when my connection drops?")
    card = device.see("tool-card")
    await expect(card).to_be_visible()
    await expect(device.words).not_to_be_empty()
    await device.keep_shot("streaming-guide")
    await device.ended()
    await expect(card).to_have_attribute("data-state", "done")
    await expect(card).to_contain_text("search_docs")
    await expect(device.words).to_contain_text("docs/")  # where it was read
    assert await device.page.evaluate("window.seen.size") > 10
    await expect(device.see("announcer")).to_have_text("The answer is complete.")
    await device.keep_shot("answered-guide")


async def test_tool_card_tells_what_is_called_and_what_it_gave(
    paced: Gateway, visit: Visit
) -> None:
    user = await paced.new_user()
    device = await visit(paced.url)
    await device.sign_in(user)
    await device.ask("Plan a walk with the dog until noon")
    card = device.see("tool-card")
    await expect(card).to_have_attribute("data-state", "running")
    await expect(device.see("stop")).to_be_visible()
    await card.locator("summary").click()
    await expect(device.see("tool-args")).to_have_text(json.dumps(json.loads(ARGUMENTS), indent=2))
    await expect(device.see("tool-result")).to_have_count(0)
    await device.keep_shot("streaming-tool")
    paced.open_gate(user, "noon")
    await device.ended()
    await expect(card).to_have_attribute("data-state", "done")
    await expect(device.see("tool-result")).to_have_text(json.dumps(json.loads(RESULT), indent=2))
    await expect(device.see("reasoning")).to_have_count(1)
    for part in ("ol > li", "table", "pre code", "blockquote"):
        await expect(device.words.locator(part).first).to_be_attached()
    await expect(device.see("stop")).to_have_count(0)
    await device.keep_shot("answered")


async def test_words_are_seen_before_the_answer_ends(paced: Gateway, visit: Visit) -> None:
    user = await paced.new_user()
    device = await visit(paced.url)
    await device.sign_in(user)
    await device.ask("Count to 60 with a rest at 25 until noon")
    await expect(device.words).to_have_text(counted(25))
    await device.ended("running")
    await expect(device.thread(await device.thread_id())).to_have_attribute("data-running", "true")
    paced.open_gate(user, "noon")
    await device.ended()
    assert await device.said() == counted(60)
    await expect(device.thread(await device.thread_id())).to_have_attribute("data-running", "false")


@pytest.mark.parametrize("way", ["button", "Esc"])
async def test_stop_keeps_what_was_said(paced: Gateway, visit: Visit, way: str) -> None:
    device = await visit(paced.url)
    await device.sign_in(await paced.new_user())
    await device.ask("Count to 60 with a rest at 25 until never")
    await expect(device.words).to_have_text(counted(25))
    if way == "button":
        await device.see("stop").click()
    else:
        await device.page.keyboard.press("Escape")
    await device.ended("stopped")
    await expect(device.see("stopped")).to_have_text("Stopped")
    await expect(device.see("stop")).to_have_count(0)
    assert await device.said() == counted(25)
    await device.keep_shot("stopped")
    await device.page.reload()
    await expect(device.words).to_have_text(counted(25))
    await device.ask("Count to 3")
    await expect(device.see("answer")).to_have_count(2)
    await device.ended()
    assert await device.said() == counted(3)


async def test_edit_replaces_what_followed(paced: Gateway, visit: Visit) -> None:
    device = await asked_twice(paced, visit)
    first = device.questions.first
    await first.hover()
    await device.button("Edit", inside=first).click()
    await expect(device.see("editor")).to_be_visible()
    await device.keep_shot("editing")
    await device.page.get_by_label("Edit the question").press("Escape")
    await expect(device.questions).to_have_text(["Count to 4", "Count to 5"])
    await first.hover()
    await device.button("Edit", inside=first).click()
    await device.page.get_by_label("Edit the question").fill("Count to 6")
    await device.button("Ask again").click()
    await expect(device.questions).to_have_text(["Count to 6"])
    await device.ended()
    assert await device.said() == counted(6)
    await device.page.reload()
    await expect(device.questions).to_have_text(["Count to 6"])
    await expect(device.see("answer").locator(".prose")).to_have_text([counted(6)])


async def test_edit_keeps_the_picture(paced: Gateway, visit: Visit) -> None:
    device = await visit(paced.url)
    await device.sign_in(await paced.new_user())
    await device.page.evaluate(ASK_ABOUT_A_PICTURE)
    await device.see("thread").get_by_role("link").click()
    await device.ended()
    for words in ("And who is it?", "Who else?"):
        await expect(device.see("attachment")).to_have_text("Picture")
        await device.questions.hover()
        await device.button("Edit", inside=device.questions).click()
        await expect(device.see("attachment")).to_have_text("Picture")
        await device.page.get_by_label("Edit the question").fill(words)
        await device.button("Ask again").click()
        await expect(device.questions.locator(".bubble")).to_contain_text(words)
        await device.ended()
        await device.page.reload()
        await device.ended()
        await expect(device.questions.locator(".bubble")).to_contain_text(words)
    question = (await device.page.evaluate(LOAD_MESSAGES, await device.thread_id()))[0]
    assert question["content"][0] == {"type": "text", "text": "Who else?"}
    assert question["content"][1]["source"]["value"] == "aGVsbG8="
    await device.keep_shot("picture")


async def test_retry_answers_the_last_question_anew(paced: Gateway, visit: Visit) -> None:
    device = await asked_twice(paced, visit)
    old = await device.answer.element_handle()
    await device.button("Try again").click()
    await device.page.wait_for_function("(old) => !old.isConnected", arg=old)
    await expect(device.see("answer")).to_have_count(2)
    await device.ended()
    await expect(device.questions).to_have_text(["Count to 4", "Count to 5"])
    assert await device.said() == counted(5)
    await device.page.reload()
    await expect(device.questions).to_have_text(["Count to 4", "Count to 5"])
    await expect(device.see("answer").locator(".prose")).to_have_text([counted(4), counted(5)])


async def test_failure_tells_its_id_and_nothing_else(paced: Gateway, visit: Visit) -> None:
    device = await visit(paced.url)
    await device.sign_in(await paced.new_user())
    await device.ask("Fail")
    await device.ended("failed")
    error_id = await device.see("run-error").locator("code").inner_text()
    await expect(device.see("run-error")).to_contain_text("agent_error")
    await paced.wait_for_log(lambda entry: entry.get("error_id") == error_id)
    assert "must not leave" not in await device.everything()
    await device.keep_shot("failed")


async def test_questions_wait_their_turn_and_can_be_taken_back(
    paced: Gateway, visit: Visit
) -> None:
    user = await paced.new_user()
    device = await visit(paced.url)
    await device.sign_in(user)
    await device.ask("Count to 9 with a rest at 4 until noon")
    await expect(device.words).to_have_text(counted(4))
    for waiting, question in enumerate(["Count to 2", "Count to 3", "Count to 4"], 1):
        await device.ask(question)
        await expect(device.see("queued")).to_have_count(waiting)
    await expect(device.see("queued").first).to_have_attribute("data-position", "1")
    await device.keep_shot("waiting")
    await device.button("Take it back", inside=device.see("queued").nth(1)).click()
    await expect(device.see("queued")).to_have_count(2)
    paced.open_gate(user, "noon")
    await expect(device.see("queue")).to_have_count(0)
    await expect(device.see("answer").locator(".prose")).to_have_text(
        [counted(9), counted(2), counted(4)]
    )
    await device.ended()


async def asked_twice(paced: Gateway, visit: Visit) -> Device:
    """Return a device that has had two answers."""
    device = await visit(paced.url)
    await device.sign_in(await paced.new_user())
    for turns, question in enumerate(["Count to 4", "Count to 5"], 1):
        await device.ask(question)
        await expect(device.see("answer")).to_have_count(turns)
        await device.ended()
    return device


def counted(most: int) -> str:
    """Return what the agent says when it counts, as it is shown."""
    return " ".join(str(n) for n in range(1, most + 1))


async def test_what_the_agent_asks_is_there_after_a_reload_and_gone_once_answered(
    paced: Gateway, visit: Visit
) -> None:
    user = await paced.new_user()
    laptop = await visit(paced.url)
    await laptop.sign_in(user)
    await laptop.ask("Ask me")
    await expect(laptop.see("interrupt")).to_contain_text("May I book the ferry?")
    await laptop.page.reload()
    await expect(laptop.see("interrupt")).to_contain_text("May I book the ferry?")
    phone = await visit(paced.url, is_phone=True)
    await phone.sign_in(user)
    await phone.visit_thread(await laptop.thread_id())
    await expect(phone.see("interrupt")).to_be_visible()
    await phone.keep_shot("asking")
    await phone.see("interrupt").get_by_label("Your answer").fill("the early one")
    await phone.button("Go on").tap()
    for device in (phone, laptop):
        await expect(device.words).to_contain_text("You said: the early one.")
        await expect(device.see("interrupt")).to_have_count(0)
    # What was asked and answered stays readable, where it was answered also after a reload.
    await expect(laptop.see("asked")).to_contain_text("Answered on another device.")
    await phone.page.reload()
    await expect(phone.see("asked")).to_contain_text("May I book the ferry?")
    await expect(phone.see("asked")).to_contain_text("You answered: the early one")
    await phone.keep_shot("asked")


async def test_approval_takes_a_deliberate_yes(paced: Gateway, visit: Visit) -> None:
    device = await visit(paced.url)
    await device.sign_in(await paced.new_user())
    await device.ask("Ask me")
    approve = device.button("Approve")
    await expect(approve).to_be_enabled()
    # Neither where the question was written nor in the empty answer is an Enter a yes.
    await expect(device.field).to_be_focused()
    await device.page.keyboard.press("Enter")
    await device.see("interrupt").get_by_label("Your answer").press("Enter")
    await device.keep_shot("approval")
    await expect(device.see("interrupt")).to_be_visible()
    await approve.dblclick()
    await expect(device.words).to_contain_text("You said: True.")
    await expect(device.see("answer").locator(".prose")).to_have_count(1)
    await expect(device.see("notice")).to_have_count(0)
    await device.page.reload()
    await expect(device.see("asked")).to_contain_text("May I book the ferry?")
    await expect(device.see("asked")).to_contain_text("You approved.")
