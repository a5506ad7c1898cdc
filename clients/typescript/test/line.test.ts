import { describe, expect, test } from "vitest";

import type { ServerFrame } from "../src/frames.js";
import { BASE_MS, CAP_MS, error, HEARTBEAT_MS, Stage } from "./stage.js";

describe("connecting", () => {
  test("hello is the first frame, and everything else waits for the welcome", () => {
    const stage = new Stage().step({ on: "subscribe", threadId: "t" }).step({ on: "connect" });
    expect(stage.dials()).toEqual([{ do: "dial", attempt: 1, reason: "connect" }]);
    stage.step({ on: "opened", attempt: 1 });
    expect(stage.sent()).toEqual([{ type: "hello", v: 1 }]);
    stage.open();
    expect(stage.sent()).toContainEqual({ type: "subscribe", threadId: "t" });
  });

  test("connect is idempotent", () => {
    const stage = new Stage().step({ on: "connect" }).step({ on: "connect" });
    expect(stage.dials()).toHaveLength(1);
  });

  test("an attempt without a welcome is given up in time", () => {
    const stage = new Stage().step({ on: "connect" });
    expect(stage.dialogue.wakeAt).toBe(5000);
    stage.wake();
    expect(stage.done()).toContainEqual({ do: "hangUp", code: 4000, why: "silence" });
    expect(stage.dialogue.state).toBe("waiting");
  });

  test("what an older socket says or does is not heard", () => {
    const stage = new Stage().connect().end(1006).wake();
    stage.done();
    stage.step({ on: "ended", attempt: 1, code: 1008 });
    stage.step({ on: "text", attempt: 1, text: "{" });
    expect(stage.done()).toEqual([]);
    expect(stage.dialogue.state).toBe("connecting");
  });
});

describe("close codes", () => {
  test.each([1000, 1001, 1006, 4409])("%i comes back at once, with jitter", (code) => {
    const stage = new Stage().connect().end(code);
    const [, details] = stage.states().at(-1) ?? [];
    expect(details).toMatchObject({ code, retryInMs: BASE_MS / 2 });
    expect(stage.wake().dials()).toEqual([{ do: "dial", attempt: 2, reason: "connect" }]);
  });

  test.each([1003, 1008, 1009, 4403])("%i stops and reports", (code) => {
    const stage = new Stage().step({ on: "connect" });
    const refusal = error("forbidden");
    stage.step({ on: "opened", attempt: 1 }).hear(refusal).end(code);
    expect(stage.states().at(-1)).toEqual(["closed", { cause: "refused", code, error: refusal }]);
    expect(stage.dialogue.wakeAt).toBe(Infinity);
  });

  test.each([4429, 1013])("%i comes back when the server says, not before", (code) => {
    const stage = new Stage().step({ on: "connect" });
    stage.hear(error("limit_exceeded", { retryable: true, retryAfterMs: 7000 })).end(code);
    expect(stage.states().at(-1)?.[1].retryInMs).toBe(7000 + BASE_MS / 2);
    expect(stage.step({ on: "woken" }).dials()).toEqual([]);
    expect(stage.wake().dials()).toHaveLength(1);
  });

  test("1001 doesn't wait for what an error said", () => {
    const stage = new Stage().connect();
    stage.hear(error("unavailable", { retryable: true, retryAfterMs: 7000 })).end(1001);
    expect(stage.states().at(-1)?.[1].retryInMs).toBe(BASE_MS / 2);
  });

  test("an error explains the end of its own attempt only", () => {
    const stage = new Stage().step({ on: "connect" }).hear(error("unavailable")).end(1013);
    expect(stage.states().at(-1)?.[1].error?.code).toBe("unavailable");
    expect(stage.wake().end(1006).states().at(-1)?.[1]).not.toHaveProperty("error");
  });

  test("4429 without a time backs off", () => {
    const stage = new Stage().step({ on: "connect" }).end(4429).wake().end(4429);
    expect(stage.states().at(-1)?.[1].retryInMs).toBe(BASE_MS);
  });

  test("4401 asks for one new credential, then reports signed-out", () => {
    const stage = new Stage().connect().end(4401).wake();
    expect(stage.dials().at(-1)).toEqual({ do: "dial", attempt: 2, reason: "refused" });
    const refusal = error("unauthenticated", { reason: "revoked" });
    stage.hear(refusal).end(4401);
    expect(stage.states().at(-1)).toEqual([
      "closed",
      { cause: "signed-out", code: 4401, error: refusal },
    ]);
  });

  test("a credential that opens the line is as good as the first", () => {
    const stage = new Stage().connect().end(4401).wake().open().end(4401);
    expect(stage.dialogue.state).toBe("waiting");
    expect(stage.wake().dials().at(-1)?.reason).toBe("refused");
  });

  test("a user who is signed out closes the client", () => {
    const stage = new Stage().step({ on: "connect" });
    stage.step({ on: "failed", attempt: 1, isSignedOut: true, problem: "no session" });
    const details = { cause: "signed-out", problem: "no session" };
    expect(stage.states().at(-1)?.[1]).toMatchObject(details);
  });

  test("a credential that can't be had now is waited out", () => {
    const stage = new Stage().step({ on: "connect" });
    stage.step({ on: "failed", attempt: 1, isSignedOut: false, problem: "offline" });
    expect(stage.states().at(-1)).toMatchObject(["waiting", { problem: "offline" }]);
  });

  test("after the end, connect begins anew", () => {
    const stage = new Stage().connect().step({ on: "close" });
    expect(stage.done()).toContainEqual({ do: "hangUp", code: 1000, why: "" });
    expect(stage.dialogue.wakeAt).toBe(Infinity);
    expect(stage.step({ on: "connect" }).dials()).toHaveLength(1);
  });
});

describe("backoff", () => {
  test.each([0, 0.5, 0.999])("all of the wait is jitter, under a cap (random %d)", (luck) => {
    const stage = new Stage().step({ on: "connect" });
    stage.luck = luck;
    for (let failures = 0; failures < 12; failures += 1) {
      const wait = stage.end(1006).states().at(-1)?.[1].retryInMs;
      expect(wait).toBeCloseTo(luck * Math.min(CAP_MS, BASE_MS * 2 ** failures));
      stage.wake();
    }
  });

  test("failures before a good line don't count after it", () => {
    const stage = new Stage().step({ on: "connect" });
    for (let failures = 0; failures < 5; failures += 1) stage.end(1006).wake();
    expect(stage.open().end(1006).states().at(-1)?.[1].retryInMs).toBe(BASE_MS / 2);
  });

  test("a server that welcomes and fails is left alone for longer and longer", () => {
    const stage = new Stage().connect().end(1011).wake().open().end(1011);
    expect(stage.states().at(-1)?.[1].retryInMs).toBe(BASE_MS);
    stage.wake().open().later(HEARTBEAT_MS / 2).later(HEARTBEAT_MS / 2).end(1011);
    expect(stage.states().at(-1)?.[1].retryInMs).toBe(BASE_MS / 2);
  });

  test("a page or network that is back tries at once", () => {
    const stage = new Stage().connect().end(1006);
    stage.done();
    expect(stage.step({ on: "woken" }).dials()).toHaveLength(1);
    expect(stage.step({ on: "woken" }).dials()).toEqual([]);
  });
});

describe("heartbeats", () => {
  test("two missed ones end the socket, and the client comes back", () => {
    const stage = new Stage().connect();
    stage.later(2 * HEARTBEAT_MS);
    expect(stage.dialogue.state).toBe("open");
    stage.wake();
    expect(stage.now).toBe(2.5 * HEARTBEAT_MS);
    expect(stage.done()).toContainEqual({ do: "hangUp", code: 4000, why: "silence" });
    expect(stage.dialogue.state).toBe("waiting");
  });

  test("whatever comes is a sign of life", () => {
    const stage = new Stage().connect();
    for (let beat = 0; beat < 9; beat += 1) stage.later(2 * HEARTBEAT_MS).hear({ type: "ping" });
    expect(stage.dialogue.state).toBe("open");
  });
});

describe("a page that is back from a sleep", () => {
  const ping = { do: "send", text: '{"type":"ping"}' };

  test("tries its line, and dials anew when nothing comes in two seconds", () => {
    const stage = new Stage().connect().later(1000);
    stage.done();
    expect(stage.step({ on: "woken" }).done()).toEqual([ping]);
    expect(stage.dialogue.wakeAt).toBe(3000);
    stage.wake();
    expect(stage.done()).toContainEqual({ do: "hangUp", code: 4000, why: "silence" });
    expect(stage.dialogue.wakeAt).toBe(3000 + BASE_MS / 2);
    expect(stage.wake().dials()).toEqual([{ do: "dial", attempt: 2, reason: "connect" }]);
    expect(stage.open().dialogue.wakeAt).toBe(stage.now + 2.5 * HEARTBEAT_MS);
  });

  test.each([[{ type: "pong" }], [{ type: "ping" }], [error("unavailable")]])(
    "keeps a line on which %j comes",
    (frame) => {
      const stage = new Stage().connect().step({ on: "woken" }).later(1999);
      stage.hear(frame as ServerFrame);
      expect(stage.dialogue.wakeAt).toBe(1999 + 2.5 * HEARTBEAT_MS);
      expect(stage.dialogue.state).toBe("open");
    },
  );

  test("tries once, whatever tells of its return, and gives no more time for each", () => {
    const stage = new Stage().connect().step({ on: "woken" }).later(1500);
    stage.done();
    expect(stage.step({ on: "woken" }).done()).toEqual([]);
    expect(stage.dialogue.wakeAt).toBe(2000);
    stage.hear({ type: "pong" });
    stage.done();
    expect(stage.step({ on: "woken" }).done()).toEqual([ping]);
  });

  test("gives a line that was silent before no more time than it has", () => {
    const stage = new Stage().connect().later(2.4 * HEARTBEAT_MS);
    expect(stage.step({ on: "woken" }).dialogue.wakeAt).toBe(2.5 * HEARTBEAT_MS);
  });

  test("leaves alone an attempt under way, and a client that was closed", () => {
    const stage = new Stage().step({ on: "connect" });
    stage.done();
    expect(stage.step({ on: "woken" }).done()).toEqual([]);
    expect(stage.dialogue.wakeAt).toBe(5000);
    stage.step({ on: "close" });
    stage.done();
    expect(stage.step({ on: "woken" }).done()).toEqual([]);
    expect(stage.dialogue.state).toBe("closed");
  });
});

describe("an open line", () => {
  test("asks for renewal when the credential ends soon, and sends what comes", () => {
    const stage = new Stage().connect().hear({ type: "auth_expiring", expiresAt: 60_000 });
    expect(stage.done()).toContainEqual({ do: "renew", attempt: 1 });
    stage.step({ on: "renewed", attempt: 1, token: "new" });
    expect(stage.sent()).toEqual([{ type: "auth", token: "new" }]);
  });

  test("a renewal that comes too late is not sent", () => {
    const stage = new Stage().connect().end(1006).wake().open();
    stage.done();
    expect(stage.step({ on: "renewed", attempt: 1, token: "new" }).sent()).toEqual([]);
  });

  test("tells of draining", () => {
    const stage = new Stage().connect().hear({ type: "draining", deadlineMs: 99 });
    expect(stage.states().at(-1)).toMatchObject(["open", { drainingUntil: 99 }]);
  });

  test("tells errors as they come, and bare ones as error frames", () => {
    const stage = new Stage().connect().hear(error("identity_mismatch"));
    const metadata = { errorId: "e2" };
    stage.hear({ type: "RUN_ERROR", message: "gone", code: "resume_expired", metadata });
    expect(stage.told("error")).toMatchObject([
      [{ code: "identity_mismatch" }],
      [{ code: "resume_expired", errorId: "e2" }],
    ]);
  });

  test.each(["", "[", "null", "3"])("survives %j, which is no frame", (text) => {
    const stage = new Stage().connect().step({ on: "text", attempt: 1, text });
    expect(stage.told("error")).toMatchObject([[{ code: "bad_frame" }]]);
  });

  test("ignores frames that it doesn't know", () => {
    const stage = new Stage().connect();
    stage.done();
    stage.step({ on: "text", attempt: 1, text: '{"type":"from the future"}' });
    expect(stage.done()).toEqual([]);
  });
});
