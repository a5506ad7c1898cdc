import { afterEach, beforeEach, expect, test } from "vitest";
import type { Message } from "../src/wire";
import { entries, said, started } from "./events";
import { closePage, find, openPage, words } from "./page";
import type { Page } from "./page";

let page: Page;
let chat: Page["chat"];
let door: Page["door"];
let client: Page["client"];
let signIn: Page["signIn"];

const history: Message[] = [
  { id: "q", role: "user", content: "old question" },
  { id: "a", role: "assistant", content: "old **answer**" },
];
const long: Message[] = ["first", "second", "third"].flatMap((content, at): Message[] => [
  { id: `q${at}`, role: "user", content },
  { id: `a${at}`, role: "assistant", content: `answer ${at}` },
]);
const threadId = () => chat.state.threadId;

let shelf: Record<string, Message[]>;

beforeEach(async () => {
  shelf = { old: history };
  page = openPage(shelf);
  ({ chat, door, client, signIn } = page);
  await chat.open();
});

afterEach(() => closePage(page));

function hear(runId: string, ...events: object[]): void {
  client().hear(threadId(), entries(runId, ...events));
}

function ask(text: string): string {
  chat.send(text);
  return client().runs.at(-1)?.runId ?? "";
}

test("who is signed out signs in, and a wrong password is told", async () => {
  await expect.poll(() => find("signin")).toHaveLength(1);
  await expect(chat.signIn("mara", "wrong")).rejects.toThrow();
  await signIn();
  await expect.poll(() => words("user")).toEqual(["mara"]);
  await expect.poll(() => words("thread")).toEqual(["Title of old"]);
  const writes = door.asked.filter(({ method }) => method !== "GET");
  expect(writes.every(({ headers }) => headers.get("X-Isolane") === "1")).toBe(true);
});

test("an answer streams in, is stopped, and says so", async () => {
  await signIn();
  const runId = ask("why?");
  await expect.poll(() => words("question")).toEqual(["why?"]);
  const { messages } = client().runs[0] ?? expect.fail("nothing was sent");
  hear(runId, started(messages[0] as Message), ...said("m", "Because **", "so**").slice(0, 3));
  await expect.poll(() => words("question")).toEqual(["why?"]);
  await expect.poll(() => find("answer")[0]?.querySelector("strong")?.textContent).toBe("so");
  const key = new KeyboardEvent("keydown", { key: "Escape" });
  window.dispatchEvent(key);
  expect(client().aborts).toEqual([runId]);
  hear(runId, { type: "RUN_FINISHED", outcome: { type: "cancelled" } });
  await expect.poll(() => find("answer")[0]?.dataset["state"]).toBe("stopped");
  await expect.poll(() => words("announcer")).toEqual(["The answer was stopped."]);
});

test("a tool's card shows its arguments, its result, and whether it runs", async () => {
  await signIn();
  const runId = ask("why?");
  const call = { type: "TOOL_CALL_START", toolCallId: "c", toolCallName: "look" };
  hear(runId, started({ id: "q", role: "user", content: "why?" }), call, {
    type: "TOOL_CALL_ARGS",
    toolCallId: "c",
    delta: "{}",
  });
  await expect.poll(() => find("tool-card")[0]?.dataset["state"]).toBe("running");
  hear(runId, { type: "TOOL_CALL_RESULT", messageId: "t", toolCallId: "c", content: "seen" });
  await expect.poll(() => find("tool-card")[0]?.dataset["state"]).toBe("done");
  await expect.poll(() => words("tool-result")).toEqual(["seen"]);
});

test("a failed run shows its error id, and is tried again from its question", async () => {
  await signIn();
  const runId = ask("why?");
  hear(runId, started({ id: "q", role: "user", content: "why?" }), {
    type: "RUN_ERROR",
    message: "It failed.",
    code: "agent_error",
    metadata: { errorId: "err_1" },
  });
  await expect.poll(() => words("run-error")[0]).toContain("err_1");
  chat.retry();
  expect(client().runs[1]).toMatchObject({ forwardedProps: { rewindTo: "q" } });
});

test("a refused question comes back to the composer with the reason", async () => {
  await signIn();
  client().refusal = {
    type: "error",
    code: "limit_exceeded",
    message: "Too many runs.",
    errorId: "err_2",
    retryable: true,
  };
  ask("why?");
  await expect.poll(() => find("question")).toHaveLength(0);
  await expect.poll(() => document.querySelector("textarea")?.value).toBe("why?");
  await expect.poll(() => words("notice")[0]).toContain("err_2");
});

test("a question that waits shows its place and can be taken back", async () => {
  await signIn();
  hear(ask("one"), started({ id: "q1", role: "user", content: "one" }));
  client().accepts = { position: 1 };
  const runId = ask("two");
  await expect.poll(() => find("queued")[0]?.dataset["position"]).toBe("1");
  find("queued")[0]?.querySelector("button")?.click();
  expect(client().aborts).toEqual([runId]);
  await expect.poll(() => find("queued")).toHaveLength(0);
});

test("a thread is loaded, and followed after its head", async () => {
  await signIn();
  location.hash = "#old";
  chat.route();
  await expect.poll(() => words("question")).toEqual(["old question"]);
  expect(client().followed.get("old")).toBe("e-9");
  location.hash = "#gone";
  chat.route();
  await expect.poll(() => find("missing")).toHaveLength(1);
});

test("a thread of many pages is loaded until it is whole", async () => {
  await signIn();
  shelf["long"] = long;
  location.hash = "#long";
  chat.route();
  await expect.poll(() => chat.state.phase).toBe("ready");
  expect(words("question")).toEqual(["first", "second", "third"]);
  expect(chat.state.transcript.messages).toEqual(long);
  expect(client().followed.get("long")).toBe("e-9");
  const pages = door.asked.filter(({ path }) => path.startsWith("/api/threads/long"));
  expect(pages).toHaveLength(3);
});

test("a gap replaces the messages", async () => {
  await signIn();
  hear(ask("one"), started({ id: "q1", role: "user", content: "one" }), ...said("m", "x"));
  await expect.poll(() => words("question")).toEqual(["one"]);
  await expect.poll(() => chat.state.transcript.pending).toHaveLength(0);
  client().tell("gap", threadId(), history, "e-9");
  await expect.poll(() => words("question")).toEqual(["old question"]);
});

test("a gap without messages loads the thread, and follows it from there", async () => {
  await signIn();
  location.hash = "#old";
  chat.route();
  await expect.poll(() => words("question")).toEqual(["old question"]);
  client().followed.clear();
  shelf["old"] = long;
  client().tell("gap", "old", null, "e-9");
  await expect.poll(() => words("question")).toEqual(["first", "second", "third"]);
  await expect.poll(() => client().followed.get("old")).toBe("e-9");
});

test("the connection's state is told, and what was caught up", async () => {
  await signIn();
  const state = () => find("connection")[0]?.dataset["state"];
  await expect.poll(() => state()).toBe("connected");
  client().tell("state", "waiting", { retryInMs: 500 });
  await expect.poll(() => state()).toBe("reconnecting");
  client().tell("state", "open", { caughtUp: 12 });
  await expect.poll(() => words("connection")[0]).toContain("caught up 12 events");
});

test("a thread deleted elsewhere is left", async () => {
  await signIn();
  location.hash = "#old";
  chat.route();
  const gone = {
    type: "thread",
    threadId: "old",
    title: "",
    updatedAt: 2,
    activeRunId: null,
    deleted: true,
  } as const;
  client().tell("thread", gone);
  await expect.poll(() => find("empty")).toHaveLength(1);
  await expect.poll(() => find("thread")).toHaveLength(0);
});

test("nothing unsent of one user goes out in the name of the next", async () => {
  await signIn();
  const first = client();
  await chat.signOut();
  expect(first.isConnected).toBe(false);
  await expect.poll(() => find("signin")).toHaveLength(1);
  await signIn();
  expect(client()).not.toBe(first);
});
