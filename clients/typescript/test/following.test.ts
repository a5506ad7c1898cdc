import { describe, expect, test } from "vitest";

import { error, Stage } from "./stage.js";

function following(head = "e-0"): Stage {
  const stage = new Stage().connect().step({ on: "subscribe", threadId: "t" });
  stage.subscribed("t", head);
  stage.done();
  return stage;
}

describe("entries", () => {
  test("come in order, each once", () => {
    const stage = following().entries("t", "e", 1, 2, 2, 1, 3);
    expect(stage.heardIds()).toEqual(["e-1", "e-2", "e-3"]);
    expect(stage.dialogue.lastId("t")).toBe("e-3");
  });

  test("of threads that are not followed are not told", () => {
    expect(following().entries("other", "e", 1).heardIds()).toEqual([]);
  });

  test("begin strictly after the id that the app gave", () => {
    const stage = new Stage().connect().step({ on: "subscribe", threadId: "t", after: "e-4" });
    expect(stage.sent().at(-1)).toEqual({ type: "subscribe", threadId: "t", after: "e-4" });
    expect(stage.subscribed("t", "e-6").entries("t", "e", 4, 5, 6).heardIds()).toEqual([
      "e-5",
      "e-6",
    ]);
  });

  test("after number 0 may have any epoch", () => {
    const stage = new Stage().connect().step({ on: "subscribe", threadId: "t", after: "old-0" });
    expect(stage.subscribed("t", "e-1").entries("t", "e", 1).heardIds()).toEqual(["e-1"]);
  });

  test("of an older subscription are not told while a newer one has no answer", () => {
    const stage = following().entries("t", "e", 1, 2, 3);
    stage.done();
    stage.step({ on: "subscribe", threadId: "t", after: "e-1" }).entries("t", "e", 4);
    expect(stage.heardIds()).toEqual([]);
    stage.subscribed("t", "e-4").entries("t", "e", 2, 3, 4);
    expect(stage.heardIds()).toEqual(["e-2", "e-3", "e-4"]);
  });

  test("of a thread that was left and taken up again wait for its own answer", () => {
    const stage = new Stage().connect().step({ on: "subscribe", threadId: "t" });
    stage.step({ on: "unsubscribe", threadId: "t" }).step({ on: "subscribe", threadId: "t" });
    stage.subscribed("t", "e-2").entries("t", "e", 1, 2);
    stage.hear({ type: "unsubscribed", threadId: "t" });
    expect(stage.heardIds()).toEqual([]);
    expect(stage.subscribed("t", "e-2").entries("t", "e", 1, 2).heardIds()).toHaveLength(2);
  });
});

describe("a reconnect", () => {
  test("asks for every followed thread after its last entry", () => {
    const stage = following().entries("t", "e", 1, 2);
    stage.step({ on: "subscribe", threadId: "u", after: "f-9" }).end(1006).wake();
    stage.done();
    expect(stage.open().sent()).toEqual([
      { type: "hello", v: 1 },
      { type: "subscribe", threadId: "t", after: "e-2" },
      { type: "subscribe", threadId: "u", after: "f-9" },
    ]);
  });

  test("needs one answer for each thread, whatever was asked on the line before", () => {
    const stage = new Stage().connect().step({ on: "subscribe", threadId: "t" }).end(1006).wake();
    stage.open().subscribed("t", "e-1").entries("t", "e", 1);
    expect(stage.heardIds()).toEqual(["e-1"]);
  });

  test("tells once how many entries were missed, when the last of them is here", () => {
    const stage = following().step({ on: "subscribe", threadId: "u" }).subscribed("u", "f-0");
    stage.entries("t", "e", 1).end(1006).wake().open().subscribed("t", "e-3");
    stage.subscribed("u", "f-1").entries("t", "e", 2, 3);
    expect(stage.states().filter(([, { caughtUp }]) => caughtUp !== undefined)).toEqual([]);
    stage.entries("u", "f", 1);
    expect(stage.states()).toMatchObject([["open", { caughtUp: 3 }]]);
    expect(stage.entries("t", "e", 4).states()).toEqual([]);
  });

  test("that missed nothing says so", () => {
    const stage = following().entries("t", "e", 1).end(1006).wake().open();
    expect(stage.subscribed("t", "e-1").states().at(-1)).toMatchObject(["open", { caughtUp: 0 }]);
  });

  test("a first connection catches up with nothing", () => {
    const stage = new Stage().step({ on: "subscribe", threadId: "t" }).connect();
    stage.subscribed("t", "e-1").entries("t", "e", 1);
    expect(stage.states().filter(([, { caughtUp }]) => caughtUp !== undefined)).toEqual([]);
  });

  test("cut anywhere, again and again, gives the same as no cut", () => {
    for (let cut = 0; cut <= 20; cut += 1) {
      const stage = following("e-20");
      for (let n = 1; n <= 20; n += 1) {
        stage.entries("t", "e", n);
        if (n % (cut + 1) > 0) continue;
        stage.end(1006).wake().open().subscribed("t", "e-20");
        stage.entries("t", "e", Math.max(1, n - 1), n); // a server that sends too much
      }
      expect(stage.heardIds()).toEqual(Array.from({ length: 20 }, (_, i) => `e-${String(i + 1)}`));
    }
  });
});

describe("a gap", () => {
  const messages = [{ id: "m1", role: "user", content: "hi" }];

  test("that the server tells is told before any later entry, which may have any number", () => {
    const stage = following().entries("t", "e", 1).end(1006).wake().open();
    stage.done();
    stage.hear({ type: "subscribed", threadId: "t", head: "g-9", recovered: false, messages });
    stage.entries("t", "g", 7, 8);
    const told = stage.done().filter((action) => action.do === "tell");
    expect(told.map(({ kind }) => kind)).toEqual(["gap", "state", "event", "event"]);
    expect(told[0]?.news).toEqual(["t", messages, "g-9"]);
  });

  test("without messages ends the following, until the app knows the thread again", () => {
    const stage = following().entries("t", "e", 1).end(1006).wake().open();
    stage.done();
    stage.hear({ type: "subscribed", threadId: "t", head: "g-9", recovered: false });
    const told = stage.done().filter((action) => action.do === "tell");
    expect(told.map(({ kind }) => kind)).toEqual(["gap", "state"]);
    expect(told[0]?.news).toEqual(["t", null, "g-9"]);
    stage.entries("t", "g", 7).end(1006).wake().open();
    expect(stage.done().filter((action) => action.do === "send")).toHaveLength(1); // hello alone
    stage.step({ on: "subscribe", threadId: "t", after: "g-9" });
    expect(stage.entries("t", "g", 10).heardIds()).toEqual([]);
  });

  test("may come unasked, on a living line", () => {
    const stage = following().entries("t", "e", 1);
    stage.hear({ type: "subscribed", threadId: "t", head: "e-90", recovered: false, messages: [] });
    stage.done();
    expect(stage.entries("t", "e", 50, 51, 53).heardIds()).toEqual(["e-50", "e-51"]);
  });

  test.each([
    ["numbers", "e", 3],
    ["epochs", "f", 2],
  ])("in %s that nobody told is a bug: reported, and asked for again", (_, epoch, n) => {
    const stage = following().entries("t", "e", 1);
    stage.done();
    stage.entries("t", epoch, n);
    const done = stage.done();
    expect(done).toMatchObject([
      { do: "tell", kind: "error", news: [{ code: "log_gap", threadId: "t" }] },
      { do: "send", text: '{"type":"subscribe","threadId":"t","after":"e-1"}' },
    ]);
    stage.subscribed("t", "e-3").entries("t", "e", 2, 3);
    expect(stage.heardIds()).toEqual(["e-2", "e-3"]);
  });

  test("that stays is not asked for for ever", () => {
    const stage = following().entries("t", "e", 1, 3).subscribed("t", "e-3");
    stage.done();
    stage.entries("t", "e", 3);
    expect(stage.sent()).toEqual([{ type: "unsubscribe", threadId: "t" }]);
    expect(stage.dialogue.lastId("t")).toBeUndefined();
  });
});

describe("a refused thread", () => {
  test("is asked for again when the server says", () => {
    const stage = new Stage().connect().step({ on: "subscribe", threadId: "t" });
    const busy = { threadId: "t", retryable: true, retryAfterMs: 1000 };
    stage.hear(error("limit_exceeded", busy));
    expect(stage.dialogue.wakeAt).toBe(1050);
    stage.done();
    expect(stage.wake().sent()).toEqual([{ type: "subscribe", threadId: "t" }]);
    expect(stage.subscribed("t", "e-1").entries("t", "e", 1).heardIds()).toEqual(["e-1"]);
  });

  test("is let go when asking again can't help", () => {
    const stage = new Stage().connect().step({ on: "subscribe", threadId: "t", after: "e-9" });
    stage.hear(error("invalid_cursor", { threadId: "t" })).end(1006).wake();
    expect(stage.told("error")).toMatchObject([[{ code: "invalid_cursor" }]]);
    expect(stage.open().sent()).toEqual([{ type: "hello", v: 1 }]);
  });

  test("that is deleted is told of, and followed no more", () => {
    const frame = { threadId: "t", title: "", updatedAt: 1, activeRunId: null, deleted: true };
    const stage = following().hear({ type: "thread", ...frame });
    expect(stage.told("thread")).toMatchObject([[{ threadId: "t", deleted: true }]]);
    stage.end(1006).wake();
    stage.done();
    expect(stage.open().sent()).toEqual([{ type: "hello", v: 1 }]);
  });
});
