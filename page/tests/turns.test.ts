import { expect, test } from "vitest";
import { accept, ask, EMPTY, fold, restart } from "../src/transcript";
import { toTurns, waiting } from "../src/turns";
import type { Answer } from "../src/turns";
import type { Message } from "../src/wire";
import { entries, said, started } from "./events";

const question = (id: string): Message => ({ id, role: "user", content: `question ${id}` });
const call = {
  id: "c",
  type: "function" as const,
  function: { name: "look", arguments: "{}" },
};
const loaded = restart([
  question("q"),
  { id: "h", role: "reasoning", content: "hm" },
  { id: "a", role: "assistant", content: "Let me see.", toolCalls: [call] },
  { id: "t", role: "tool", toolCallId: "c", content: "seen" },
  { id: "b", role: "assistant", content: "Seen." },
]);

test("all that answers one question is one turn", () => {
  const turns = toTurns(loaded);
  expect(turns.map(({ role }) => role)).toEqual(["user", "assistant"]);
  expect((turns[1] as Answer).parts).toEqual([
    { type: "reasoning", text: "hm" },
    { type: "text", text: "Let me see." },
    { type: "tool", callId: "c", name: "look", argsText: "{}", isError: false, result: "seen" },
    { type: "text", text: "Seen." },
  ]);
});

test("turns that didn't change keep their identity", () => {
  const before = toTurns(loaded);
  const grown = fold(loaded, entries("r", started(question("q2")), ...said("x", "y")));
  const after = toTurns(grown, before);
  expect(after.slice(0, 2)).toEqual(before);
  expect(after[0]).toBe(before[0]);
  expect(after[1]).toBe(before[1]);
  expect(toTurns(grown, after)[3]).toBe(after[3]);
});

test("a run that says nothing has a turn while it runs and when it fails", () => {
  const running = fold(EMPTY, entries("r", started(question("q"))));
  expect(toTurns(running)[1]).toMatchObject({ id: "r", parts: [], run: { state: "running" } });
  const failed = fold(
    running,
    entries("r", { type: "RUN_ERROR", message: "no", code: "agent_error" }),
  );
  expect(toTurns(failed)[1]).toMatchObject({ id: "r", run: { state: "failed" } });
  const next = fold(failed, entries("s", started(question("q2"))));
  expect(toTurns(next).map(({ id }) => id)).toEqual(["q", "r", "q2", "s"]);
});

test("a run without a question has a turn too", () => {
  const before = fold(loaded, entries("r", started(question("q2")), ...said("x", "y")));
  const resumed = fold(before, entries("s", { type: "RUN_STARTED", input: { messages: [] } }));
  expect(toTurns(resumed).at(-1)).toMatchObject({ id: "s", parts: [] });
});

test("a question stands in its place before the server has it", () => {
  const asked = ask(loaded, { runId: "r", message: question("q2"), rewindTo: "q" });
  expect(toTurns(asked).map(({ id }) => id)).toEqual(["q2", "r"]);
  const begun = fold(asked, entries("r", started(question("q2"), "q")));
  expect(toTurns(begun).map(({ id }) => id)).toEqual(["q2", "r"]);
});

test("a question that waits stands in the queue only", () => {
  const running = fold(EMPTY, entries("r", started(question("q"))));
  const queued = accept(ask(running, { runId: "s", message: question("q2") }), "s", 1);
  expect(toTurns(queued)).toHaveLength(2);
  expect(waiting(queued).map(({ runId, position }) => [runId, position])).toEqual([["s", 1]]);
});
