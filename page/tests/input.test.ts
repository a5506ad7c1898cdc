import { afterEach, beforeEach, expect, test } from "vitest";
import type { Message } from "../src/wire";
import { closePage, find, openPage, words } from "./page";
import type { Page } from "./page";

const picture = {
  type: "image",
  source: { type: "data", value: "aGk=", mimeType: "image/png" },
} as const;
const text = (words: string) => ({ type: "text", text: words }) as const;
const asked = (content: unknown) => ({ id: "q", role: "user", content }) as Message;

let page: Page;
let shelf: Record<string, Message[]>;

beforeEach(async () => {
  localStorage.clear();
  shelf = { old: [asked("old question")] };
  page = openPage(shelf);
  await page.chat.open();
  await page.signIn();
  await expect.poll(() => find("empty")).toHaveLength(1);
});
afterEach(() => closePage(page));

function press(element: Element | undefined | null, key: string, how: object = {}): KeyboardEvent {
  const event = new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...how });
  (element ?? expect.fail("there is nothing to write in")).dispatchEvent(event);
  return event;
}

const button = (name: string) =>
  document.querySelector<HTMLElement>(`button[aria-label="${name}"]`) ??
  expect.fail(`there is no button ${name}`);

async function show(hash: string): Promise<void> {
  location.hash = hash;
  page.chat.route();
  await expect.poll(() => page.chat.state.phase).not.toBe("loading");
}

const MALFORMED = ["#abc%", "#%", "#%E0%A4%A", "#%00", "#a b", "#a/../b", "#?x=1"];
const NAMELESS = ["#.", "#..", "#%2E", "#null", "#Undefined"];

test.each([...MALFORMED, ...NAMELESS, `#${"x".repeat(9999)}`])(
  "the address %s opens the page, and names no conversation",
  async (hash) => {
    const before = page.door.asked.length;
    await show(hash);
    await expect.poll(() => find("missing")).toHaveLength(1);
    expect(page.door.asked).toHaveLength(before);
    expect(find("notice")).toHaveLength(0);
    await show("#old");
    await expect.poll(() => words("question")).toEqual(["old question"]);
  },
);

// What every object of JavaScript has under these names is no draft, and nothing that was asked.
test.each(["constructor", "__proto__", "toString"])(
  "a conversation may be called %s, and have a draft",
  async (name) => {
    await show(`#${name}`);
    await expect.poll(() => find("missing")).toHaveLength(1);
    page.chat.write("kept");
    expect(page.chat.drafts.get().texts.get(name)).toBe("kept");
    await show("#");
    await expect.poll(() => document.querySelector("textarea")?.value).toBe("");
  },
);

test("an address whose characters are encoded names the same conversation", async () => {
  await show("#%6fld");
  await expect.poll(() => words("question")).toEqual(["old question"]);
});

test.each([{ isComposing: true }, { keyCode: 229 }])(
  "Enter that confirms an input method's word sends nothing: %j",
  async (how) => {
    page.chat.write("にほんご");
    await expect.poll(() => document.querySelector("textarea")?.value).toBe("にほんご");
    const field = document.querySelector("textarea");
    expect(press(field, "Enter", how).defaultPrevented).toBe(false);
    expect(press(field, "Escape", how).defaultPrevented).toBe(false);
    expect(page.client().runs).toHaveLength(0);
    press(field, "Enter", { keyCode: 13 });
    expect(page.client().runs).toHaveLength(1);
  },
);

test.each([{ isComposing: true }, { keyCode: 229 }])(
  "nor does it end the renaming of a conversation, or an edit: %j",
  async (how) => {
    await show("#old");
    await expect.poll(() => find("thread")).toHaveLength(1);
    button("Rename Title of old").click();
    await expect.poll(() => document.querySelectorAll(".rename")).toHaveLength(1);
    for (const key of ["Enter", "Escape"]) press(document.querySelector(".rename"), key, how);
    expect(document.querySelectorAll(".rename")).toHaveLength(1);
    button("Edit").click();
    await expect.poll(() => find("editor")).toHaveLength(1);
    for (const key of ["Enter", "Escape"]) {
      press(find("editor")[0]?.querySelector("textarea"), key, how);
    }
    expect(find("editor")).toHaveLength(1);
    expect(page.client().runs).toHaveLength(0);
  },
);

test.each([
  ["before its words", [picture, text("what is it?")], [picture, text("who is it?")]],
  ["behind its words", [text("what is it?"), picture], [text("who is it?"), picture]],
  [
    "among its words",
    [text("what"), picture, text("is it?"), picture],
    [text("who is it?"), picture, picture],
  ],
  ["without words", [picture], [text("who is it?"), picture]],
  ["none, in one part", [text("what is it?")], "who is it?"],
])("an edit keeps a question's pictures: %s", async (_, before, after) => {
  shelf["shown"] = [asked(before)];
  await show("#shown");
  await expect.poll(() => find("question")).toHaveLength(1);
  button("Edit").click();
  await expect.poll(() => find("editor")).toHaveLength(1);
  const given = find("editor")[0]?.querySelector("textarea")?.value;
  expect(given).not.toContain("[");
  page.chat.edit("q", "who is it?");
  const { messages, forwardedProps } = page.client().runs[0] ?? expect.fail("nothing was sent");
  expect(messages).toMatchObject([{ role: "user", content: after }]);
  expect(forwardedProps).toEqual({ rewindTo: "q" });
});

test("a question shows that it has a picture, and its words stay words", async () => {
  shelf["shown"] = [asked([picture, text("what is it?")])];
  await show("#shown");
  await expect.poll(() => words("attachment")).toEqual(["Picture"]);
  button("Edit").click();
  await expect.poll(() => find("editor")).toHaveLength(1);
  expect(find("editor")[0]?.querySelector("textarea")?.value).toBe("what is it?");
  expect(words("attachment")).toEqual(["Picture"]);
});

test("a refused edit gives its words back, and leaves the picture where it was", async () => {
  shelf["shown"] = [asked([picture, text("what is it?")])];
  await show("#shown");
  await expect.poll(() => find("question")).toHaveLength(1);
  const refusal = { code: "no", message: "no", errorId: "", retryable: false };
  page.client().refusal = { type: "error", ...refusal };
  page.chat.edit("q", "who is it?");
  await expect.poll(() => document.querySelector("textarea")?.value).toBe("who is it?");
  expect(words("attachment")).toEqual(["Picture"]);
});
