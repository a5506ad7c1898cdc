import type { Message } from "@ag-ui/client";
import { expect, test } from "vitest";

import { rewindTo } from "../src/rewind.js";

const user = (id: string, content = id): Message => ({ id, role: "user", content });
const answer = (id: string): Message => ({ id, role: "assistant", content: id });
const THREAD = [user("q1"), answer("a1"), user("q2"), answer("a2")];

test.each([
  ["a new question behind all", [...THREAD, user("q3")], undefined],
  ["the first question of all", [user("q1")], undefined, []],
  ["the last question anew", THREAD.slice(0, 3), undefined],
  ["the last question in other words", [...THREAD.slice(0, 2), user("q2", "other")], "q2"],
  ["the last question under another id", [...THREAD.slice(0, 2), user("q3")], "q2"],
  ["a question in the place of an answer", [...THREAD.slice(0, 3), user("q3")], "a2"],
  ["an earlier question anew", THREAD.slice(0, 1), "q1"],
  ["an earlier question in other words", [user("q1", "other")], "q1"],
  ["a list that was shortened at its start", [...THREAD.slice(2), user("q3")], undefined],
  ["a list of another thread", [user("x"), answer("y"), user("q3")], undefined],
  ["no question", THREAD, undefined],
  ["nothing", [], undefined],
] as [string, Message[], string | undefined, Message[]?][])("%s", (_, list, target, known) => {
  expect(rewindTo(list, known ?? THREAD)).toBe(target);
});
