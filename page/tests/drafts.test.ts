import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { Message } from "../src/wire";
import { closePage, find, openPage, words } from "./page";
import type { Page } from "./page";

let page: Page;
const history: Message[] = [{ id: "q", role: "user", content: "old question" }];
const field = () => document.querySelector("textarea") ?? expect.fail("there is no field");
const error = { type: "error", code: "no", message: "no", errorId: "", retryable: false } as const;

beforeEach(async () => {
  localStorage.clear();
  await open();
});
afterEach(() => closePage(page));

async function open(): Promise<void> {
  page = openPage({ old: history });
  await page.chat.open();
  await page.signIn();
  await expect.poll(() => field().disabled).toBe(false);
}

/** Load the page again, with the session that there is. */
async function reload(hash = location.hash): Promise<void> {
  const { isSignedIn } = page.door;
  closePage(page);
  page = openPage({ old: history });
  page.door.isSignedIn = isSignedIn;
  location.hash = hash;
  await page.chat.open();
  page.client().tell("state", "open", {});
}

async function show(threadId: string): Promise<void> {
  location.hash = threadId;
  page.chat.route();
  await expect.poll(() => page.chat.state.phase).toBe(threadId === "" ? "new" : "ready");
}

test("a draft outlives a reload, in its own conversation", async () => {
  page.chat.write("for a new one");
  await show("old");
  page.chat.write("for the old one");
  await reload();
  await expect.poll(() => field().value).toBe("for the old one");
  await show("");
  await expect.poll(() => field().value).toBe("for a new one");
});

test("a draft outlives a session that ends, and is its user's alone", async () => {
  page.chat.write("mara's secret");
  page.door.isSignedIn = false;
  page.client().tell("state", "waiting", { code: 4401 });
  await expect.poll(() => find("signin")).toHaveLength(1);
  for (const other of ["mar", "mara x", "mara%20x", "bob"]) {
    page.account.userId = other;
    await page.signIn();
    await expect.poll(() => words("user")).toHaveLength(1);
    expect(field().value).toBe("");
    await page.chat.signOut();
  }
  page.account.userId = "mara";
  await page.signIn();
  await expect.poll(() => field().value).toBe("mara's secret");
});

test.each(["here", "everywhere", "when the session has ended already"])(
  "signing out %s clears every draft",
  async (how) => {
    page.chat.write("one");
    await show("old");
    page.chat.write("two");
    if (how.startsWith("when")) page.door.isSignedIn = false;
    await (how === "everywhere" ? page.chat.signOutEverywhere() : page.chat.signOut());
    await expect.poll(() => find("signin")).toHaveLength(1);
    expect(JSON.stringify(Object.entries(localStorage))).not.toMatch(/one|two/);
    await page.signIn();
    await expect.poll(() => field().value).toBe("");
  },
);

test("what was sent is kept until the server has taken it", async () => {
  const kept = () => JSON.stringify(Object.entries(localStorage));
  let take: () => void = () => undefined;
  page.client().run = () => new Promise((done) => (take = done as () => void));
  page.chat.write("a question");
  page.chat.send("a question");
  page.chat.write("and the next");
  expect(kept()).toContain("a question");
  take();
  await expect.poll(kept).not.toContain("a question");
  expect(kept()).toContain("and the next");
});

test("a question that was never taken comes back after a reload", async () => {
  page.client().run = () => new Promise(() => undefined);
  page.chat.send("the first question");
  await reload(""); // its conversation never began
  await expect.poll(() => field().value).toBe("the first question");
});

test("a refused first question is there after a reload, though its thread never was", async () => {
  page.client().refusal = error;
  page.chat.send("no, you can't");
  await expect.poll(() => field().value).toBe("no, you can't");
  await reload();
  await expect.poll(() => find("missing")).toHaveLength(1);
  await show("");
  await expect.poll(() => field().value).toBe("no, you can't");
});

test("the draft of a deleted conversation goes with it", async () => {
  await show("old");
  page.chat.write("too late");
  const about = { type: "thread", threadId: "old", title: "", updatedAt: 2 } as const;
  page.client().tell("thread", { ...about, activeRunId: null, deleted: true });
  expect(JSON.stringify(Object.entries(localStorage))).not.toContain("too late");
});

test.each(["no storage", "a full one"])("without room nothing is kept: %s", async (how) => {
  const refuse = () => {
    throw new DOMException("no", "QuotaExceededError");
  };
  if (how === "no storage") vi.stubGlobal("localStorage", undefined);
  else vi.spyOn(Storage.prototype, "setItem").mockImplementation(refuse);
  page.chat.write("gone with the page");
  await expect.poll(() => field().value).toBe("gone with the page");
  await page.chat.signOut();
  await expect.poll(() => find("signin")).toHaveLength(1);
  vi.restoreAllMocks();
});
