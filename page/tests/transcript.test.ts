import { describe, expect, test } from "vitest";
import { toAsked } from "../src/asked";
import { accept, ask, EMPTY, fold, restart, takeBack, withdraw } from "../src/transcript";
import type { Transcript } from "../src/transcript";
import { toTurns } from "../src/turns";
import type { Message } from "../src/wire";
import { entries, said, started } from "./events";

const question = (id: string, content = "why?"): Message => ({ id, role: "user", content });
const grow = (before: Transcript, runId: string, ...events: object[]) =>
  fold(before, entries(runId, ...events));

describe("a run's messages", () => {
  test("grow from deltas", () => {
    const after = grow(EMPTY, "r", started(question("q")), ...said("a", "Be", "cause"));
    expect(after.messages).toEqual([
      question("q"),
      { id: "a", role: "assistant", content: "Because" },
    ]);
    expect(after.activeRunId).toBe("r");
  });

  test("are the same however the stream is cut into batches", () => {
    const events = entries("r", started(question("q")), ...said("a", ..."one two three".split("")));
    const atOnce = fold(EMPTY, events);
    const oneByOne = events.reduce((now, entry) => fold(now, [entry]), EMPTY);
    expect(oneByOne).toEqual(atOnce);
  });

  test("keep their identity when a batch doesn't touch them", () => {
    const before = grow(EMPTY, "r", started(question("q")), ...said("a", "x"));
    const after = grow(before, "r", ...said("b", "y"));
    expect(after.messages[1]).toBe(before.messages[1]);
  });

  test("take tool calls into their parent, and results beside it", () => {
    const after = grow(
      EMPTY,
      "r",
      started(question("q")),
      ...said("a", "Let me see."),
      { type: "TOOL_CALL_START", toolCallId: "c", toolCallName: "look", parentMessageId: "a" },
      { type: "TOOL_CALL_ARGS", toolCallId: "c", delta: '{"x"' },
      { type: "TOOL_CALL_ARGS", toolCallId: "c", delta: ":1}" },
      { type: "TOOL_CALL_END", toolCallId: "c" },
      { type: "TOOL_CALL_RESULT", messageId: "t", toolCallId: "c", content: "seen" },
    );
    const call = { id: "c", type: "function", function: { name: "look", arguments: '{"x":1}' } };
    expect(after.messages.slice(1)).toEqual([
      { id: "a", role: "assistant", content: "Let me see.", toolCalls: [call] },
      { id: "t", role: "tool", toolCallId: "c", content: "seen" },
    ]);
  });

  test("give a call without a parent a message of its own", () => {
    const call = { type: "TOOL_CALL_START", toolCallId: "c", toolCallName: "look" };
    const lone = grow(EMPTY, "r", started(question("q")), call);
    expect(lone.messages[1]).toMatchObject({ id: "c", role: "assistant" });
    const tool = { type: "TOOL_CALL_RESULT", messageId: "t", toolCallId: "x", content: "" };
    const odd = grow(EMPTY, "r", started(question("q")), tool, { ...call, parentMessageId: "t" });
    expect(odd.messages[2]).toMatchObject({ id: "c", role: "assistant" });
  });

  test("start once, whatever comes twice", () => {
    const start = { type: "TEXT_MESSAGE_START", messageId: "a", role: "assistant" };
    const after = grow(EMPTY, "r", started(question("q")), ...said("a", "x"), start);
    expect(after.messages).toHaveLength(2);
    expect(after.messages[1]?.content).toBe("x");
  });

  test("hold reasoning and activities", () => {
    const after = grow(
      EMPTY,
      "r",
      started(question("q")),
      { type: "REASONING_MESSAGE_START", messageId: "h", role: "reasoning" },
      { type: "REASONING_MESSAGE_CONTENT", messageId: "h", delta: "hm" },
      { type: "ACTIVITY_SNAPSHOT", messageId: "p", activityType: "PLAN", content: { step: 1 } },
      {
        type: "ACTIVITY_SNAPSHOT",
        messageId: "p",
        activityType: "PLAN",
        content: {},
        replace: false,
      },
    );
    expect(after.messages.slice(1)).toEqual([
      { id: "h", role: "reasoning", content: "hm" },
      { id: "p", role: "activity", activityType: "PLAN", content: { step: 1 } },
    ]);
  });

  test("are replaced by a snapshot, but not those that stood before", () => {
    const before = restart([question("old"), { id: "o", role: "assistant", content: "told" }]);
    const messages = [
      { id: "o", role: "assistant", content: "forged" },
      { id: "n", role: "assistant", content: "new" },
    ];
    const after = grow(before, "r", started(question("q")), ...said("a", "x"), {
      type: "MESSAGES_SNAPSHOT",
      messages,
    });
    expect(after.messages.map(({ id, content }) => [id, content])).toEqual([
      ["old", "why?"],
      ["o", "told"],
      ["q", "why?"],
      ["n", "new"],
    ]);
  });

  test("that say nothing are gone when the run ends", () => {
    const after = grow(EMPTY, "r", started(question("q")), ...said("a"), {
      type: "RUN_FINISHED",
      outcome: { type: "success" },
    });
    expect(after.messages).toEqual([question("q")]);
  });
});

describe("a run", () => {
  const end = (event: object) => grow(grow(EMPTY, "r", started(question("q"))), "r", event);

  test("ends done, stopped, waiting or failed", () => {
    const outcome = (type: string) =>
      end({ type: "RUN_FINISHED", outcome: { type } }).runs.get("r");
    expect(outcome("success")?.state).toBe("done");
    expect(outcome("cancelled")?.state).toBe("stopped");
    const interrupts = [{ id: "i", reason: "approval" }];
    const asked = end({ type: "RUN_FINISHED", outcome: { type: "interrupt", interrupts } });
    expect(asked.runs.get("r")).toMatchObject({ state: "waiting", interrupts });
    const error = {
      type: "RUN_ERROR",
      message: "It failed.",
      code: "agent_error",
      metadata: { errorId: "err_1", agentCode: "quota" },
    };
    const failed = end(error);
    expect(failed.activeRunId).toBeNull();
    expect(failed.runs.get("r")).toMatchObject({
      state: "failed",
      error: {
        code: "agent_error",
        agentCode: "quota",
        message: "It failed.",
        errorId: "err_1",
      },
    });
  });

  test("that rewinds drops the message and what follows it", () => {
    const before = grow(EMPTY, "r", started(question("q")), ...said("a", "x"));
    const after = grow(before, "s", started(question("q2"), "q"));
    expect(after.messages).toEqual([question("q2")]);
  });

  test("doesn't double a question that a load had already", () => {
    const after = grow(restart([question("q")]), "r", started(question("q")));
    expect(after.messages).toHaveLength(1);
  });
});

describe("what a run asks of a person", () => {
  const interrupts = [{ id: "i", reason: "approval", message: "May I?" }];

  test("is there for who comes later, until another run begins", () => {
    const before = restart([question("q")], [], interrupts);
    const [turn] = toTurns(before).slice(-1);
    expect(turn).toMatchObject({ run: { state: "waiting", interrupts }, parts: [] });
    const more = [started(question("more")), ...said("a", "done")];
    const after = grow(before, "r", ...more);
    expect(toTurns(after).map((one) => one.id)).toEqual(["q", "asked:i", "more", "r"]);
  });
});

describe("what was asked of a person", () => {
  const interrupts = [{ id: "i", reason: "approval", message: "May I?" }];
  const open = fold(
    grow(EMPTY, "r", started(question("q"))),
    entries("r", { type: "RUN_FINISHED", outcome: { type: "interrupt", interrupts } }),
  );
  const resumed = { type: "RUN_STARTED", input: { messages: [] } };
  const kinds = (now: Transcript) => now.asked.map(({ reply }) => reply.kind);

  test("stands behind its question once another run begins, with who settled it", () => {
    expect(kinds(open)).toEqual([]);
    const answered = grow(open, "s", resumed, ...said("a", "done"));
    expect(kinds(answered)).toEqual(["elsewhere"]);
    expect(toTurns(answered).map((one) => one.id)).toEqual(["q", "r", "asked:i", "s"]);
    expect(kinds(grow(open, "s", started(question("more"))))).toEqual(["left"]);
  });

  test("keeps what this device knows of it, and isn't doubled", () => {
    const asked = [toAsked(interrupts, "q", { kind: "approved" })];
    const before = { ...open, asked };
    expect(toTurns(before).map((one) => one.id)).toEqual(["q", "r"]);
    expect(kinds(grow(before, "s", resumed))).toEqual(["approved"]);
    const loaded = restart([question("q"), question("more")], [], [], asked);
    expect(toTurns(loaded).map((one) => one.id)).toEqual(["q", "asked:i", "more"]);
  });

  test("goes with the message behind which it was asked", () => {
    const settled = grow(open, "s", resumed, ...said("a", "done"));
    expect(kinds(grow(settled, "t", started(question("q2"), "q")))).toEqual([]);
    expect(kinds(grow(open, "t", started(question("q2"), "q")))).toEqual([]);
  });
});

describe("pending questions", () => {
  const pending = (runId: string) => ({ runId, message: question(`q-${runId}`) });
  const queue = [1, 2, 3].reduce(
    (now, place) => accept(ask(now, pending(`r${place}`)), `r${place}`, place),
    grow(EMPTY, "r0", started(question("q"))),
  );
  const positions = (now: Transcript) => now.pending.map((one) => [one.runId, one.position]);

  test("move up when one's turn comes", () => {
    const after = grow(queue, "r1", started(question("q-r1")));
    expect(positions(after)).toEqual([
      ["r2", 1],
      ["r3", 2],
    ]);
  });

  test("move up once for one that was taken back, in its turn", () => {
    const taken = takeBack(queue, "r1");
    expect(positions(taken)).toEqual(positions(queue));
    expect(positions(grow(taken, "r1", started(question("q-r1"))))).toEqual([
      ["r2", 1],
      ["r3", 2],
    ]);
  });

  test("go when refused, and survive a gap", () => {
    expect(positions(withdraw(queue, "r2"))).toEqual([
      ["r1", 1],
      ["r3", 3],
    ]);
    expect(restart([question("q-r1")], queue.pending).pending).toHaveLength(2);
  });
});
