import { afterEach, beforeEach, expect, test } from "vitest";
import { toPayload } from "../src/asked";
import type { Message } from "../src/wire";
import { entries, said } from "./events";
import { closePage, find, openPage, words } from "./page";
import type { Page } from "./page";

let page: Page;
const history: Message[] = [{ id: "q", role: "user", content: "book it" }];
const asks = [{ id: "i1", reason: "approval", message: "May I book the ferry?" }];

beforeEach(async () => {
  localStorage.clear();
  await open();
  await openThread();
  wait(asks);
  await expect.poll(() => find("interrupt")).toHaveLength(1);
});
afterEach(() => closePage(page));

async function open(): Promise<void> {
  page = openPage({ old: history });
  await page.chat.open();
  await page.signIn();
}

async function openThread(): Promise<void> {
  location.hash = "#old";
  page.chat.route();
  await expect.poll(() => words("question")).toEqual(["book it"]);
  await expect.poll(() => page.chat.state.phase).toBe("ready");
}

function hear(runId: string, ...events: object[]): void {
  page.client().hear("old", entries(runId, ...events));
}

/** Let a run end by asking. */
function wait(interrupts: object[], runId = "r"): void {
  const outcome = { type: "interrupt", interrupts };
  hear(runId, { type: "RUN_STARTED", input: { messages: [] } }, { type: "RUN_FINISHED", outcome });
}

function resume(runId = "s"): void {
  const begun = { type: "RUN_STARTED", input: { messages: [] } };
  hear(runId, begun, ...said("a", "It is booked."), { type: "RUN_FINISHED" });
}

const button = (name: string) => {
  const all = find("interrupt").flatMap((card) => [...card.querySelectorAll("button")]);
  return all.find((one) => one.textContent === name) ?? expect.fail(`there is no button ${name}`);
};
const input = () => find("interrupt")[0]?.querySelector("input") ?? expect.fail("no input");

function write(text: string): void {
  Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value")?.set?.call(input(), text);
  input().dispatchEvent(new Event("input", { bubbles: true }));
}

function enter(how: object = {}): void {
  const event = { key: "Enter", keyCode: 13, bubbles: true, cancelable: true, ...how };
  input().dispatchEvent(new KeyboardEvent("keydown", event));
}

async function armed(name: string): Promise<HTMLButtonElement> {
  await expect.poll(() => button(name).disabled).toBe(false);
  return button(name);
}

const sent = () => page.client().runs.map(({ resume: given }) => given);

test("an approval takes a click on what has no focus, not an Enter", async () => {
  expect(find("interrupt")[0]?.contains(document.activeElement)).toBe(false);
  await armed("Approve");
  enter();
  write("   ");
  enter();
  expect(sent()).toEqual([]);
  button("Approve").click();
  expect(sent()).toEqual([[{ interruptId: "i1", status: "resolved", payload: true }]]);
});

test("the second tap of a double one lands on no yes, and a yes is sent once", async () => {
  // It has just come under the finger: no task has run since, however slow the machine is.
  const taps: boolean[] = [];
  const watch = new MutationObserver(() => {
    if (taps.length > 0 || find("interrupt").length === 0) return;
    taps.push(button("Approve").disabled);
    button("Approve").click();
  });
  resume();
  await expect.poll(() => find("interrupt")).toHaveLength(0);
  watch.observe(document.body, { childList: true, subtree: true });
  wait([{ ...asks[0], id: "i2" }], "r2");
  await expect.poll(() => taps).toEqual([true]);
  expect(sent()).toEqual([]);
  const approve = await armed("Approve");
  approve.click();
  approve.click();
  await expect.poll(() => button("Approve").disabled).toBe(true);
  approve.click();
  expect(sent()).toHaveLength(1);
});

test("words are sent by Enter, unless the Enter is an input method's or held down", async () => {
  await armed("Approve");
  write("die frühe");
  await armed("Go on");
  enter({ keyCode: 229 });
  enter({ isComposing: true });
  enter({ repeat: true });
  expect(sent()).toEqual([]);
  enter();
  expect(sent()).toEqual([[{ interruptId: "i1", status: "resolved", payload: "die frühe" }]]);
});

test.each([
  ["Approve", "You approved."],
  ["Decline", "You declined."],
])("what was asked and answered stays, also after a reload: %s", async (name, told) => {
  (await armed(name)).click();
  resume();
  const seen = ["May I book the ferry?", told];
  const text = () => words("asked").join();
  await expect.poll(() => find("interrupt")).toHaveLength(0);
  await expect.poll(text).toContain(seen.join(""));
  closePage(page);
  await open();
  await openThread();
  await expect.poll(text).toContain(seen.join(""));
  await page.chat.signOut();
  expect(JSON.stringify(Object.entries(localStorage))).not.toContain("ferry");
});

test("an answer in words is kept as words", async () => {
  await armed("Approve");
  write("<b>the early one</b>");
  (await armed("Go on")).click();
  resume();
  await expect.poll(() => words("asked").join()).toContain("You answered: <b>the early one</b>");
});

test("an answer that is refused can be given again", async () => {
  const refusal = { code: "unavailable", message: "Not now.", errorId: "", retryable: true };
  page.client().refusal = { type: "error", ...refusal };
  (await armed("Approve")).click();
  await expect.poll(() => words("notice").join()).toContain("Not now.");
  page.client().refusal = null;
  (await armed("Approve")).click();
  resume();
  await expect.poll(() => words("asked").join()).toContain("You approved.");
  expect(find("asked")).toHaveLength(1);
});

test("who is too late sees that another device answered", async () => {
  const refusal = { code: "run_conflict", message: "Too late.", errorId: "", retryable: false };
  page.client().refusal = { type: "error", ...refusal };
  (await armed("Approve")).click();
  resume("other");
  await expect.poll(() => words("asked").join()).toContain("Answered on another device.");
});

test("several are approved together, and each of them stays", async () => {
  const both = [...asks, { id: "i2", reason: "And the cabin?" }];
  wait(both, "r2");
  (await armed("Approve all")).click();
  expect(sent()[0]).toHaveLength(2);
  resume();
  await expect.poll(() => words("asked").at(-1)).toContain("And the cabin?");
});

test.each([
  ["approved", undefined, true],
  ["answered", "yes", "yes"],
  ["answered", "false", false],
  ["answered", '{"seats": 2}', { seats: 2 }],
] as const)("a reply %s %s is for the agent %j", (kind, given, payload) => {
  expect(toPayload(given === undefined ? { kind } : { kind, words: given })).toEqual(payload);
});

test("what another version kept breaks nothing", async () => {
  for (const kept of ["{", "3", "[3]", '[{"ids":1}]', "null", "[null]"]) {
    localStorage.setItem("isolane.asked / mara old", kept);
    location.hash = "";
    page.chat.route();
    await openThread();
    expect(find("asked")).toHaveLength(0);
  }
});
