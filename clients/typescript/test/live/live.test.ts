import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { WebSocket } from "ws";

import { fetchThread, fetchTicket, IsolaneClient } from "../../src/index.js";
import type { ClientOptions, Entry, Message, RunInput, StateDetails } from "../../src/index.js";
import { Gateway, Proxy } from "./server.js";

let gateway: Gateway;
let proxy: Proxy;
let clients: IsolaneClient[];
let threads = 0;

beforeAll(async () => {
  gateway = await Gateway.start();
});

afterAll(async () => {
  await gateway.remove();
});

beforeEach(async () => {
  proxy = await Proxy.before(gateway);
  clients = [];
});

afterEach(() => {
  for (const client of clients) client.close();
  proxy.close();
});

/** A client, and what it was told. */
class Viewer {
  readonly client: IsolaneClient;
  readonly entries: Entry[] = [];
  readonly news: string[] = [];
  readonly details: StateDetails[] = [];
  gap: readonly Message[] | null = null;

  constructor(options: Partial<ClientOptions>) {
    this.client = new IsolaneClient({
      url: `ws://${proxy.address}/ws`,
      WebSocket,
      backoffBaseMs: 20,
      backoffCapMs: 200,
      ...options,
    });
    this.client.onEvent((_, entry) => this.entries.push(entry));
    this.client.onError(({ code, message }) => this.news.push(`${code}: ${message}`));
    this.client.onGap((_, messages) => (this.gap = messages));
    this.client.onState((_, details) => this.details.push(details));
    this.client.connect();
    clients.push(this.client);
  }

  get types(): string[] {
    return this.entries.map(({ event }) => event.type);
  }

  get ids(): string[] {
    return this.entries.map(({ id }) => id);
  }

  /** What the agent said. */
  get text(): string {
    const deltas = this.entries.map(({ event }) => event["delta"]);
    return deltas.filter((delta) => typeof delta === "string").join("");
  }

  async until(isSo: (viewer: this) => boolean): Promise<void> {
    await expect.poll(() => isSo(this), { timeout: 15_000, interval: 5 }).toBe(true);
  }

  async untilEnd(): Promise<void> {
    await this.until(({ types }) => types.some((type) => /^RUN_(FINISHED|ERROR)$/.test(type)));
  }
}

async function viewer(user: string, options: Partial<ClientOptions> = {}): Promise<Viewer> {
  const token = await gateway.token(user);
  return new Viewer({ token: () => token, ...options });
}

function counting(count: number, everyMs: number): RunInput {
  const threadId = `t${String((threads += 1))}`;
  const content = `count ${String(count)} every ${String(everyMs)} ms`;
  return { threadId, runId: `run.${threadId}`, messages: [{ id: "m1", role: "user", content }] };
}

function numbers(count: number): string {
  return Array.from({ length: count }, (_, i) => `${String(i + 1)} `).join("");
}

test("a run of 50 events, cut again and again, is told once, in order, without a gap", async () => {
  const alice = await viewer("alice");
  const input = counting(50, 20);
  alice.client.onEvent((_, { id }) => {
    if (Number(id.split("-")[1]) % 8 === 0) proxy.cut();
  });
  await alice.client.run(input);
  await alice.untilEnd();
  expect(proxy.cuts).toBeGreaterThanOrEqual(6);
  expect(alice.text).toBe(numbers(50));
  const epoch = alice.ids[0]?.split("-")[0] ?? "";
  expect(alice.ids).toEqual(alice.ids.map((_, i) => `${epoch}-${String(i + 1)}`));
  expect(alice.news).toEqual([]);
  expect(alice.gap).toBeNull();
  const caughtUp = alice.details.filter((details) => details.caughtUp !== undefined);
  expect(caughtUp.length).toBeGreaterThan(0);

  const other = await viewer("alice");
  other.client.subscribe(input.threadId);
  await other.untilEnd();
  expect(other.entries).toEqual(alice.entries);
});

test("a run frame that is cut off is sent again, and the run is done once", async () => {
  const alice = await viewer("alice");
  await alice.until(({ client }) => client.state === "open");
  const input = counting(3, 1);
  const accepted = alice.client.run(input);
  proxy.cut();
  await accepted;
  await alice.untilEnd();
  expect(alice.types.filter((type) => type === "RUN_STARTED")).toHaveLength(1);
  expect(alice.text).toBe(numbers(3));
});

test("the gateway's sudden death and return lose nothing that was seen", async () => {
  const alice = await viewer("alice");
  await alice.client.run(counting(500, 20));
  await alice.until(({ entries }) => entries.length > 10);
  const seen = [...alice.ids];
  await gateway.kill();
  await gateway.start();
  await alice.untilEnd();
  expect(alice.ids.slice(0, seen.length)).toEqual(seen);
  expect(alice.entries.at(-1)?.event).toMatchObject({ type: "RUN_ERROR", code: "agent_lost" });
  expect(alice.news).toEqual([]);
});

test("a gateway that goes away orderly is come back to", async () => {
  const alice = await viewer("alice");
  await alice.until(({ client }) => client.state === "open");
  await gateway.kill("SIGTERM");
  await alice.until(({ details }) => details.some((told) => told.drainingUntil !== undefined));
  await gateway.start();
  await alice.client.run(counting(2, 1));
  await alice.untilEnd();
  expect(alice.text).toBe(numbers(2));
});

describe("stopping", () => {
  test("works from another device, and is answered", async () => {
    const alice = await viewer("alice");
    const input = counting(500, 20);
    await alice.client.run(input);
    const other = await viewer("alice");
    await expect(other.client.abort(input.runId)).resolves.toBe(true);
    await alice.untilEnd();
    expect(alice.entries.at(-1)?.event).toMatchObject({ outcome: { type: "cancelled" } });
  });

  test("of what nobody knows is answered too", async () => {
    const alice = await viewer("alice");
    await expect(alice.client.abort("nothing")).resolves.toBe(false);
  });
});

describe("credentials", () => {
  test("may be tickets, a new one for each attempt", async () => {
    const headers = { authorization: `Bearer ${await gateway.token("alice")}` };
    let count = 0;
    const alice = await viewer("alice", {
      ticket: () => {
        count += 1;
        return fetchTicket(`http://${proxy.address}/api/tickets`, { headers });
      },
    });
    await alice.until(({ client }) => client.state === "open");
    proxy.cut();
    await alice.until(({ details }) => details.some(({ caughtUp }) => caughtUp !== undefined));
    expect(count).toBeGreaterThan(1);
  });

  test("that have ended are asked for once more; then the user is signed out", async () => {
    const expired = await gateway.token("alice", -10);
    const reasons: string[] = [];
    const alice = await viewer("alice", {
      token: (reason) => {
        reasons.push(reason);
        return expired;
      },
    });
    await alice.until(({ client }) => client.state === "closed");
    expect(reasons).toEqual(["connect", "refused"]);
    expect(alice.details.at(-1)).toMatchObject({
      cause: "signed-out",
      code: 4401,
      error: { code: "unauthenticated", reason: "expired" },
    });
  });

  test("without which no ticket is given sign the user out", async () => {
    const alice = await viewer("alice", {
      ticket: () => fetchTicket(`http://${proxy.address}/api/tickets`),
    });
    await alice.until(({ client }) => client.state === "closed");
    expect(alice.details.at(-1)?.cause).toBe("signed-out");
  });

  test("that end within a minute are renewed on the open line", async () => {
    const reasons: string[] = [];
    const tokens = [await gateway.token("alice", 59), await gateway.token("alice")];
    const alice = await viewer("alice", {
      token: (reason) => {
        reasons.push(reason);
        return tokens[reason === "expiring" ? 1 : 0] ?? "";
      },
    });
    await alice.until(() => reasons.includes("expiring"));
    await alice.client.run(counting(1, 1));
    expect([reasons, alice.news]).toEqual([["connect", "expiring"], []]);
  });
});

describe("what can't be resumed", () => {
  test("is told as a gap, before what is kept", async () => {
    const alice = await viewer("alice");
    const input = counting(3, 1);
    await alice.client.run(input);
    await alice.untilEnd();
    const other = await viewer("alice");
    other.client.subscribe(input.threadId, { after: "another-5" });
    await other.until(({ gap }) => gap !== null);
    await other.untilEnd();
    expect(other.entries).toEqual(alice.entries);
  });

  test("and is more than a frame holds is read over HTTP", async () => {
    const small = await Gateway.start({
      ISOLANE_LIMIT_FRAME_BYTES: "2048",
      ISOLANE_LOG_MAX_EVENTS: "12",
      ISOLANE_LIMIT_RUN_EVENTS: "12",
    });
    const origin = `127.0.0.1:${String(small.port)}`;
    const token = await small.token("alice");
    const alice = new Viewer({ url: `ws://${origin}/ws`, token: () => token });
    const ask = async (n: number) => {
      const content = `count 1 every 1 ms ${"x".repeat(500)}`;
      const messages = [{ id: `m${String(n)}`, role: "user", content }];
      await alice.client.run({ threadId: "t", runId: `r${String(n)}`, messages });
      const isOver = ({ event, runId }: Entry) =>
        runId === `r${String(n)}` && event.type === "RUN_FINISHED";
      await alice.until(({ entries }) => entries.some(isOver));
    };
    for (let n = 1; n <= 6; n += 1) await ask(n);
    const other = new Viewer({ url: `ws://${origin}/ws`, token: () => token });
    const loaded: string[] = [];
    other.client.onGap((threadId, messages) => {
      expect(messages).toBeNull();
      const headers = { Authorization: `Bearer ${token}` };
      void fetchThread(`http://${origin}/api/threads/${threadId}`, { headers }).then((thread) => {
        loaded.push(...thread.messages.map(({ id }) => id));
        other.client.subscribe(threadId, { after: thread.head });
      });
    });
    other.client.subscribe("t", { after: "another-5" });
    await other.until(() => loaded.length > 0);
    expect(loaded.filter((id) => /^m[1-6]$/.test(id))).toEqual(["m1", "m2", "m3", "m4", "m5", "m6"]);
    await ask(7);
    await other.untilEnd();
    expect(new Set(other.entries.map(({ runId }) => runId))).toEqual(new Set(["r7"]));
    await small.remove();
  });

  test("is refused when it lies ahead of the log", async () => {
    const alice = await viewer("alice");
    const input = counting(1, 1);
    await alice.client.run(input);
    await alice.untilEnd();
    const epoch = alice.ids[0]?.split("-")[0] ?? "";
    alice.client.subscribe(input.threadId, { after: `${epoch}-999` });
    await alice.until(({ news }) => news.length > 0);
    expect(alice.news[0]).toContain("invalid_cursor");
    expect(alice.client.lastId(input.threadId)).toBeUndefined();
  });
});

test("another user's thread of the same name is another thread", async () => {
  const alice = await viewer("alice");
  const input = counting(3, 1);
  await alice.client.run(input);
  const bob = await viewer("bob");
  await bob.client.run({ ...input, messages: [{ id: "m", role: "user", content: "count 1" }] });
  await Promise.all([alice.untilEnd(), bob.untilEnd()]);
  expect([alice.text, bob.text]).toEqual([numbers(3), numbers(1)]);
});
