import { afterEach, expect, test, vi } from "vitest";
import { SignedOut, fetchThread, loadHistory } from "../src/index.js";
import type { HistoryPage } from "../src/index.js";

const says = (...ids: string[]) => ids.map((id) => ({ id, role: "user", content: id }));
const NEWEST: HistoryPage = { messages: says("e"), head: "x-9", before: "x-9~7~0" };
const MIDDLE: HistoryPage = { messages: says("c", "d"), head: "x-9", before: "x-9~3~1" };
const OLDEST: HistoryPage = { messages: says("a", "b"), head: "x-9", before: null };

afterEach(() => {
  vi.unstubAllGlobals();
});

function serve(...answers: (HistoryPage | number)[]): string[] {
  const asked: string[] = [];
  vi.stubGlobal("fetch", (url: string) => {
    asked.push(url);
    const answer = answers[asked.length - 1] ?? 500;
    const refusal = { status: Number(answer), headers: { "retry-after": "0" } };
    return Promise.resolve(
      typeof answer === "number" ? new Response("", refusal) : Response.json(answer),
    );
  });
  return asked;
}

test("a thread is read page by page until it is whole", async () => {
  const asked = serve(NEWEST, 429, MIDDLE, OLDEST);
  const whole = await fetchThread("/api/threads/t");
  expect(whole).toEqual({ messages: says("a", "b", "c", "d", "e"), head: "x-9", before: null });
  expect(asked.at(1)).toBe("/api/threads/t?before=x-9~7~0");
  expect(asked.at(-1)).toBe("/api/threads/t?before=x-9~3~1");
});

test("a thread whose moment is gone is read anew", async () => {
  const now = { messages: says("a", "f"), head: "x-12", before: null };
  serve(NEWEST, 410, now);
  expect(await fetchThread("/api/threads/t")).toEqual(now);
});

test("what can't be read is told", async () => {
  serve(NEWEST, 401);
  await expect(fetchThread("/api/threads/t")).rejects.toThrow(SignedOut);
  serve(404);
  await expect(fetchThread("/api/threads/t")).rejects.toThrow("HTTP 404");
  serve(410, 410, 410, 410, 410);
  await expect(fetchThread("/api/threads/t")).rejects.toThrow("HTTP 410");
});

test("who doesn't want more is not told more", async () => {
  const pages = [NEWEST, MIDDLE, OLDEST];
  const seen: number[] = [];
  const read = await loadHistory(
    () => Promise.resolve(pages.shift() ?? OLDEST),
    ({ messages }) => seen.push(messages.length) < 2,
  );
  expect(seen).toEqual([1, 3]);
  expect(read.messages).toEqual(says("c", "d", "e"));
});
