import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";

import { IsolaneClient, RunRefused, SignedOut } from "../src/index.js";
import type { ClientOptions, State } from "../src/index.js";
import { error, WELCOME } from "./stage.js";

class FakeSocket {
  static all: FakeSocket[] = [];
  onopen: (() => unknown) | null = null;
  onmessage: ((event: { data: unknown }) => unknown) | null = null;
  onclose: ((event: { code: number }) => unknown) | null = null;
  onerror: (() => unknown) | null = null;
  readonly sent: string[] = [];
  closed: number | undefined;
  readonly url: string;
  readonly protocols: string[];

  constructor(url: string, protocols: string[]) {
    this.url = url;
    this.protocols = protocols;
    FakeSocket.all.push(this);
  }

  send(text: string): void {
    if (this.closed !== undefined) throw new Error("sent on a closed socket");
    this.sent.push(text);
  }

  close(code?: number): void {
    this.closed = code;
  }

  hear(frame: unknown): void {
    this.onmessage?.({ data: JSON.stringify(frame) });
  }

  open(): void {
    this.onopen?.();
    this.hear(WELCOME);
  }
}

const INPUT = { threadId: "t", runId: "r", messages: [] };
let clients: IsolaneClient[] = [];

async function connected(options: Partial<ClientOptions> = {}): Promise<IsolaneClient> {
  const client = new IsolaneClient({ url: "https://host/ws", WebSocket: FakeSocket, ...options });
  clients.push(client);
  client.connect();
  await vi.advanceTimersByTimeAsync(0);
  return client;
}

function socket(): FakeSocket {
  const newest = FakeSocket.all.at(-1);
  if (newest === undefined) throw new Error("nobody dialled");
  return newest;
}

beforeEach(() => {
  vi.useFakeTimers();
  FakeSocket.all = [];
});

afterEach(() => {
  for (const client of clients) client.close();
  clients = [];
  vi.useRealTimers();
});

describe("the address", () => {
  test("with a cookie holds no credential", async () => {
    await connected();
    expect(socket()).toMatchObject({ url: "wss://host/ws", protocols: ["agui.v1"] });
  });

  test("with a token has it as a subprotocol, never in the URL", async () => {
    await connected({ token: () => Promise.resolve("a.b.c") });
    expect(socket()).toMatchObject({
      url: "wss://host/ws",
      protocols: ["agui.v1", "bearer.a.b.c"],
    });
  });

  test("with tickets has a new one for each attempt", async () => {
    let count = 0;
    await connected({ ticket: () => `t${String((count += 1))}` });
    socket().onclose?.({ code: 1006 });
    await vi.advanceTimersByTimeAsync(1000);
    expect(FakeSocket.all.map(({ url }) => url)).toEqual([
      "wss://host/ws?ticket=t1",
      "wss://host/ws?ticket=t2",
    ]);
  });
});

describe("credentials", () => {
  test("that are refused are asked for once more, and told so", async () => {
    const token = vi.fn(() => "a.b.c");
    const client = await connected({ token });
    socket().onclose?.({ code: 4401 });
    await vi.advanceTimersByTimeAsync(1000);
    socket().onclose?.({ code: 4401 });
    expect(token.mock.calls).toEqual([["connect"], ["refused"]]);
    expect(client.state).toBe("closed");
  });

  test("of a user who is signed out end the client", async () => {
    const client = await connected({ ticket: () => Promise.reject(new SignedOut()) });
    expect(client.state).toBe("closed");
    expect(FakeSocket.all).toEqual([]);
  });

  test("that can't be had now are asked for again", async () => {
    const ticket = vi.fn(() => Promise.reject(new Error("offline")));
    const client = await connected({ ticket });
    expect(client.state).toBe("waiting");
    await vi.advanceTimersByTimeAsync(1000);
    expect(ticket.mock.calls.length).toBeGreaterThan(1);
  });

  test("that come when nobody wants them any more open nothing", async () => {
    let give: (ticket: string) => void = () => undefined;
    const client = await connected({ ticket: () => new Promise((resolve) => (give = resolve)) });
    client.close();
    give("late");
    await vi.advanceTimersByTimeAsync(0);
    expect(FakeSocket.all).toEqual([]);
  });

  test("are renewed on the open line when the app has tokens", async () => {
    await connected({ token: (reason) => `${reason}.token` });
    socket().open();
    socket().hear({ type: "auth_expiring", expiresAt: 1 });
    await vi.advanceTimersByTimeAsync(0);
    expect(socket().sent.at(-1)).toBe('{"type":"auth","token":"expiring.token"}');
  });

  test("that can't be renewed leave the line as it is", async () => {
    const token = vi.fn((reason: string) => {
      if (reason === "expiring") throw new Error("offline");
      return "a.b.c";
    });
    const client = await connected({ token });
    socket().open();
    socket().hear({ type: "auth_expiring", expiresAt: 1 });
    await vi.advanceTimersByTimeAsync(0);
    expect(client.state).toBe("open");
  });
});

describe("runs and aborts", () => {
  test("resolve when the server has answered", async () => {
    const client = await connected();
    socket().open();
    const run = client.run(INPUT);
    expect(client.run(INPUT)).toBe(run);
    const abort = client.abort("r");
    const accepted = { ...INPUT, type: "accepted", requestId: "q", disposition: "started" };
    socket().hear(accepted);
    socket().hear({ type: "stopping", runId: "r" });
    await expect(run).resolves.toMatchObject({ disposition: "started" });
    await expect(abort).resolves.toBe(true);
  });

  test("reject with the server's frame, and nobody need look", async () => {
    const client = await connected();
    socket().open();
    const refused = client.run(INPUT);
    socket().hear(error("run_conflict", { runId: "r" }));
    await expect(refused).rejects.toThrow(RunRefused);
    void client.run(INPUT); // vitest fails for rejections that nobody handles
    socket().hear(error("run_conflict", { runId: "r" }));
  });

  test.each(["", "a b", "a/b", "x".repeat(129)])("refuse the id %j at once", async (id) => {
    const client = await connected();
    expect(() => client.run({ ...INPUT, runId: id })).toThrow(TypeError);
    expect(() => client.abort(id)).toThrow(TypeError);
    expect(() => {
      client.subscribe(id);
    }).toThrow(TypeError);
    expect(() => {
      client.subscribe("t", { after: id });
    }).toThrow(TypeError);
  });
});

describe("listeners", () => {
  test("may ask for more while they are told, and see it done in order", async () => {
    const client = await connected();
    const states: State[] = [];
    client.onState((state) => {
      states.push(state);
      if (state === "open") client.subscribe("t");
      if (state === "waiting") client.close();
    });
    socket().open();
    expect(socket().sent).toEqual([
      '{"type":"hello","v":1}',
      '{"type":"subscribe","threadId":"t"}',
    ]);
    socket().onclose?.({ code: 1006 });
    expect(states).toEqual(["open", "waiting", "closed"]);
  });

  test("that end the connection end it after what was to be done before", async () => {
    const client = await connected();
    client.subscribe("t");
    client.onState((state) => {
      if (state === "open") client.close();
    });
    socket().open();
    expect(socket().sent).toHaveLength(2);
    expect(socket().closed).toBe(1000);
  });

  test("that were taken away are told nothing", async () => {
    const client = await connected();
    const heard = vi.fn();
    client.onState(heard)();
    socket().open();
    expect(heard).not.toHaveBeenCalled();
  });

  test("that throw harm nobody", async () => {
    const thrown: unknown[] = [];
    vi.stubGlobal("queueMicrotask", (task: () => void) => {
      try {
        task();
      } catch (problem) {
        thrown.push(problem);
      }
    });
    const client = await connected();
    const heard = vi.fn();
    const remove = client.onState(() => {
      throw new Error("broken listener");
    });
    client.onState(heard);
    socket().open();
    remove();
    vi.unstubAllGlobals();
    expect(heard).toHaveBeenCalledOnce();
    expect(thrown).toHaveLength(1);
    expect(client.state).toBe("open");
  });
});

function stubPage(visibilityState = "visible") {
  const heard = new EventTarget();
  const document = Object.assign(new EventTarget(), { visibilityState });
  vi.stubGlobal("addEventListener", heard.addEventListener.bind(heard));
  vi.stubGlobal("removeEventListener", heard.removeEventListener.bind(heard));
  vi.stubGlobal("document", document);
  return { heard, document };
}

describe("the page", () => {
  test("that comes online has its connection tried at once, until it closes it", async () => {
    const heard = new EventTarget();
    const remove = vi.fn(heard.removeEventListener.bind(heard));
    vi.stubGlobal("addEventListener", heard.addEventListener.bind(heard));
    vi.stubGlobal("removeEventListener", remove);
    const client = await connected({ backoffBaseMs: 60_000, backoffCapMs: 60_000 });
    socket().onclose?.({ code: 1006 });
    heard.dispatchEvent(new Event("online"));
    await vi.advanceTimersByTimeAsync(0);
    expect(FakeSocket.all).toHaveLength(2);
    client.close();
    expect(remove.mock.calls.map(([type]) => type)).toEqual(["online", "pageshow", "focus"]);
    expect(client.state).toBe("closed");
    heard.dispatchEvent(new Event("focus"));
    expect(FakeSocket.all).toHaveLength(2);
    vi.unstubAllGlobals();
  });

  test.each(["online", "pageshow", "focus", "visibilitychange"])(
    "that %s wakes has a dead socket replaced within seconds",
    async (type) => {
      const { heard, document } = stubPage();
      await connected();
      socket().open();
      (type === "visibilitychange" ? document : heard).dispatchEvent(new Event(type));
      expect(socket().sent.at(-1)).toBe('{"type":"ping"}');
      await vi.advanceTimersByTimeAsync(2000);
      expect(socket().closed).toBe(4000);
      await vi.advanceTimersByTimeAsync(500);
      expect(FakeSocket.all).toHaveLength(2);
      vi.unstubAllGlobals();
    },
  );

  test("that is being hidden is left alone", async () => {
    const { document } = stubPage("hidden");
    await connected();
    socket().open();
    document.dispatchEvent(new Event("visibilitychange"));
    expect(socket().sent).toEqual(['{"type":"hello","v":1}']);
    vi.unstubAllGlobals();
  });

  test("that hears nothing for two heartbeats has its socket closed, and a new one", async () => {
    await connected();
    socket().open();
    await vi.advanceTimersByTimeAsync(2.5 * WELCOME.heartbeatMs);
    expect(socket().closed).toBe(4000);
    await vi.advanceTimersByTimeAsync(1000);
    expect(FakeSocket.all).toHaveLength(2);
  });
});
