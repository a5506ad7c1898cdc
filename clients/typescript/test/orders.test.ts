import { describe, expect, test } from "vitest";

import type { RunInput } from "../src/frames.js";
import { error, Stage } from "./stage.js";

const INPUT: RunInput = {
  threadId: "t",
  runId: "r",
  messages: [{ id: "m", role: "user", content: "hi" }],
};
const ACCEPTED = {
  type: "accepted",
  threadId: "t",
  runId: "r",
  requestId: "q",
  disposition: "started",
} as const;

describe("a run", () => {
  test("follows its thread first, and is sent when there is a line", () => {
    const stage = new Stage().step({ on: "run", input: INPUT }).connect();
    expect(stage.sent().slice(1)).toEqual([{ type: "subscribe", threadId: "t" }, INPUT]);
  });

  test("is sent again after each reconnect until it is accepted, and never after", () => {
    const stage = new Stage().connect().step({ on: "run", input: INPUT });
    stage.end(1006).wake().open();
    expect(stage.sent().filter((frame) => "messages" in frame)).toEqual([INPUT, INPUT]);
    stage.hear(ACCEPTED, ACCEPTED);
    expect(stage.done().filter((action) => action.do === "accepted")).toHaveLength(1);
    stage.end(1006).wake().open();
    expect(stage.sent()).not.toContainEqual(INPUT);
  });

  test("that is refused is told to its caller and to all, and not sent again", () => {
    const stage = new Stage().connect().step({ on: "run", input: INPUT });
    const refusal = error("run_conflict", { threadId: "t", runId: "r" });
    stage.done();
    expect(stage.hear(refusal).done()).toEqual([
      { do: "tell", kind: "error", news: [refusal] },
      { do: "refused", what: "run", runId: "r", error: refusal },
    ]);
    expect(stage.end(1006).wake().open().sent()).not.toContainEqual(INPUT);
  });

  test("that meets a limit or a busy thread is the app's to try again", () => {
    const stage = new Stage().connect().step({ on: "run", input: INPUT });
    stage.hear(error("run_conflict", { runId: "r", retryable: true }));
    expect(stage.done()).toContainEqual(expect.objectContaining({ do: "refused", runId: "r" }));
  });

  test("that meets a server on its way out is sent again, there or to the next one", () => {
    const stage = new Stage().connect().step({ on: "run", input: INPUT });
    stage.hear(error("unavailable", { runId: "r", retryable: true, retryAfterMs: 1000 }));
    expect(stage.dialogue.wakeAt).toBe(1050);
    stage.done();
    expect(stage.wake().sent()).toEqual([INPUT]);
    expect(stage.end(1001).wake().open().sent()).toContainEqual(INPUT);
  });

  test("that was to be sent again later goes with the next connection instead", () => {
    const stage = new Stage().connect().step({ on: "run", input: INPUT });
    stage.hear(error("unavailable", { runId: "r", retryable: true, retryAfterMs: 1000 }));
    stage.end(1001).wake().open();
    expect(stage.sent().filter((frame) => "messages" in frame)).toHaveLength(2);
    expect(stage.later(2000).sent()).toEqual([]);
  });

  test("too large for the server is not sent, for it would end the connection", () => {
    const input = { ...INPUT, forwardedProps: "é".repeat(500) };
    const stage = new Stage().step({ on: "run", input }).connect();
    const done = stage.done();
    expect(done).toContainEqual(
      expect.objectContaining({ do: "refused", what: "run", runId: "r" }),
    );
    expect(done.filter(({ do: what }) => what === "send")).toHaveLength(2);
  });
});

describe("an abort", () => {
  test("is sent again until it is answered", () => {
    const stage = new Stage().connect().step({ on: "abort", runId: "r" }).end(1006).wake().open();
    const abort = { type: "abort", runId: "r" };
    expect(stage.sent().filter((frame) => "runId" in frame)).toEqual([abort, abort]);
    stage.hear({ type: "stopping", runId: "r" });
    expect(stage.done()).toEqual([{ do: "aborted", runId: "r", isKnown: true }]);
    expect(stage.end(1006).wake().open().sent()).not.toContainEqual(abort);
  });

  test("goes after the run that it is for", () => {
    const stage = new Stage().step({ on: "run", input: INPUT }).step({ on: "abort", runId: "r" });
    expect(stage.connect().sent().slice(2)).toEqual([INPUT, { type: "abort", runId: "r" }]);
  });

  test("of a run that nobody knows is answered too", () => {
    const stage = new Stage().connect().step({ on: "abort", runId: "r" });
    stage.hear(error("not_found", { runId: "r" }));
    expect(stage.done()).toContainEqual({ do: "aborted", runId: "r", isKnown: false });
  });

  test("that is refused for now is sent again", () => {
    const stage = new Stage().connect().step({ on: "abort", runId: "r" });
    stage.hear(error("unavailable", { runId: "r", retryable: true, retryAfterMs: 10 }));
    stage.done();
    expect(stage.wake().sent()).toEqual([{ type: "abort", runId: "r" }]);
  });
});

describe("a server that is told too much", () => {
  const tooMuch = error("limit_exceeded", { retryable: true, retryAfterMs: 500 });

  test("says not which frame it dropped: a new connection sends again what has no answer", () => {
    const stage = new Stage().connect().step({ on: "run", input: INPUT }).hear(tooMuch);
    expect(stage.dialogue.state).toBe("waiting");
    expect(stage.dialogue.wakeAt).toBe(550);
    stage.done();
    expect(stage.wake().open().sent()).toContainEqual(INPUT);
  });

  test("is no reason to hang up when everything is answered", () => {
    expect(new Stage().connect().hear(tooMuch).dialogue.state).toBe("open");
  });
});
