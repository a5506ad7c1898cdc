import { afterEach, beforeEach, expect, test } from "vitest";
import { closePage, find, openPage, words } from "./page";
import type { Page } from "./page";

let page: Page;

beforeEach(() => {
  page = openPage();
  // jsdom knows dialogs, and no modal ones.
  HTMLDialogElement.prototype.showModal = function show(this: HTMLDialogElement) {
    this.open = true;
  };
});

afterEach(() => closePage(page));

const links = () =>
  [...document.querySelectorAll<HTMLAnchorElement>('[data-testid="signin"] a')].map((link) => [
    link.textContent,
    link.getAttribute("href"),
  ]);
const button = (name: string) =>
  [...document.querySelectorAll("button")].find(
    (one) => (one.getAttribute("aria-label") ?? one.textContent) === name,
  ) ?? expect.fail(`there is no button ${name}`);

async function openDevices(): Promise<void> {
  await page.signIn();
  await expect.poll(() => find("user")).toHaveLength(1);
  button("Devices").click();
  await expect.poll(() => find("device")).toHaveLength(2);
}

test("the person is called what their provider calls them", async () => {
  page.account.userId = "corp|CN%3DAda%2COU%3DR%26D";
  page.door.isSignedIn = true;
  await page.chat.open();
  await expect.poll(() => words("user")).toEqual(["corp|CN=Ada,OU=R&D"]);
});

test("each provider is a link beside name and password", async () => {
  page.door.ways.providers = [
    { name: "corp", label: "Corp & Sons", href: "/signin/corp" },
    { name: "club", label: "club", href: "/signin/club" },
  ];
  await page.chat.open();
  await expect.poll(() => find("signin")).toHaveLength(1);
  expect(links()).toEqual([
    ["Sign in with Corp & Sons", "/signin/corp"],
    ["Sign in with club", "/signin/club"],
  ]);
  expect(document.querySelectorAll("input")).toHaveLength(2);
});

test("without local accounts nobody is asked for a password", async () => {
  page.door.ways = { password: false, providers: [{ name: "a", label: "A", href: "/signin/a" }] };
  await page.chat.open();
  await expect.poll(() => links()).toHaveLength(1);
  expect(document.querySelectorAll("input")).toHaveLength(0);
});

test.each([
  ["unauthenticated", "Signing in didn't work."],
  ["unavailable", "can't be reached"],
  ["<b>anything</b>", "Something went wrong while signing in."],
])("a sign-in that failed with %s is told, and leaves the address", async (code, sentence) => {
  history.replaceState(null, "", `/?signin=${encodeURIComponent(code)}&kept=1#old`);
  await page.chat.open();
  await expect.poll(() => words("signin")[0]).toContain(sentence);
  expect(words("signin")[0]).not.toContain("anything");
  expect(location.href).toMatch(/\/\?kept=1#old$/);
  history.replaceState(null, "", "/");
});

test("who is signed in stays so when another sign-in fails", async () => {
  history.replaceState(null, "", "/?signin=unauthenticated");
  page.door.isSignedIn = true;
  await page.chat.open();
  await expect.poll(() => words("notice")[0]).toContain("Signing in didn't work.");
  expect(location.search).toBe("");
});

test.each([
  [800, "in a second."],
  [45_001, "in 46 seconds."],
  [1_800_000, "in 30 minutes."],
])("too many attempts say when to come back: %i ms", async (retryAfterMs, sentence) => {
  page.door.retryAfterMs = retryAfterMs;
  await page.chat.open();
  await expect.poll(() => find("signin")).toHaveLength(1);
  for (const input of document.querySelectorAll("input")) input.value = "x";
  document.querySelector("form")?.requestSubmit();
  await expect.poll(() => words("signin")[0]).toContain(`Too many attempts. Try again ${sentence}`);
});

test("the devices are listed, this one first and marked", async () => {
  await openDevices();
  const [desk, phone] = words("device");
  expect(desk).toContain("Chrome on Linux This device");
  expect(phone).toContain("Safari on iPhone");
  expect(phone).toContain("last seen just now");
  expect(find("device").map(({ dataset }) => dataset["current"])).toEqual(["true", "false"]);
});

test("another device's session is ended, and the own one stays", async () => {
  await openDevices();
  button("Sign out Safari on iPhone").click();
  await expect.poll(() => find("device")).toHaveLength(1);
  expect(page.door.sessions.map(({ sessionId }) => sessionId)).toEqual(["s1"]);
  expect(find("user")).toHaveLength(1);
});

test("a session that had ended already is no failure", async () => {
  await openDevices();
  page.door.sessions = page.door.sessions.slice(1);
  button("Sign out Safari on iPhone").click();
  await expect.poll(() => find("device")).toHaveLength(1);
  expect(find("notice")).toHaveLength(0);
});

test("signing out everywhere asks first", async () => {
  await openDevices();
  button("Sign out everywhere").click();
  await expect.poll(() => find("everywhere-dialog")).toHaveLength(1);
  expect(page.door.sessions).toHaveLength(2);
  const [dialog] = find("everywhere-dialog");
  // jsdom can't close a dialog by its form.
  dialog?.querySelector("form")?.addEventListener("submit", (event) => event.preventDefault());
  dialog?.querySelector<HTMLElement>(".danger")?.click();
  await expect.poll(() => find("signin")).toHaveLength(1);
  expect(page.door.sessions).toHaveLength(0);
});

test("a socket closed because its credential ended shows the sign-in at once", async () => {
  await page.signIn();
  page.door.isSignedIn = false;
  page.client().tell("state", "waiting", { retryInMs: 60_000, code: 4401 });
  await expect.poll(() => words("signin")[0]).toContain("Your session has ended.");
});

test("a socket closed with 4401 beside a good session is opened anew", async () => {
  await page.signIn();
  const asked = () => page.door.asked.filter(({ path }) => path === "/api/me").length;
  const before = asked();
  page.client().tell("state", "waiting", { retryInMs: 60_000, code: 4401 });
  await expect.poll(asked).toBe(before + 1);
  expect(page.client().isConnected).toBe(true);
  expect(find("signin")).toHaveLength(0);
});
