/** A gateway for the tests: the HTTP doors as a stubbed `fetch`, the WebSocket as a client. */
import type { ErrorFrame, Listeners, RunInput } from "@isolane/client";
import { RunRefused } from "@isolane/client";
import { vi } from "vitest";
import type { Client } from "../src/client";
import type { Entry, Message } from "../src/wire";

type Kind = keyof Listeners;
type News<K extends Kind> = Parameters<Listeners[K]>;

export class FakeClient implements Client {
  readonly runs: RunInput[] = [];
  readonly aborts: string[] = [];
  readonly followed = new Map<string, string | undefined>();
  isConnected = false;
  accepts: { position?: number } = {};
  refusal: ErrorFrame | null = null;
  private readonly listeners: { kind: Kind; listener: (...news: never[]) => void }[] = [];

  connect = () => void (this.isConnected = true);
  close = () => void (this.isConnected = false);
  subscribe = (threadId: string, { after }: { after?: string } = {}) =>
    void this.followed.set(threadId, after);
  unsubscribe = (threadId: string) => void this.followed.delete(threadId);
  run = (input: RunInput) => {
    this.runs.push(input);
    if (this.refusal !== null) return Promise.reject(new RunRefused(this.refusal));
    const { threadId, runId } = input;
    const disposition = this.accepts.position === undefined ? "started" : "queued";
    return Promise.resolve({
      type: "accepted",
      threadId,
      runId,
      requestId: "q",
      disposition,
      ...this.accepts,
    } as const);
  };
  abort = (runId: string) => {
    this.aborts.push(runId);
    return Promise.resolve(true);
  };
  onState = (listener: Listeners["state"]) => this.on("state", listener);
  onEvent = (listener: Listeners["event"]) => this.on("event", listener);
  onGap = (listener: Listeners["gap"]) => this.on("gap", listener);
  onThread = (listener: Listeners["thread"]) => this.on("thread", listener);
  onError = (listener: Listeners["error"]) => this.on("error", listener);

  tell<K extends Kind>(kind: K, ...news: News<K>): void {
    for (const one of this.listeners)
      if (one.kind === kind) one.listener(...(news as unknown as never[]));
  }

  hear(threadId: string, entries: readonly Entry[]): void {
    for (const { id, runId, event } of entries)
      this.tell("event", threadId, { id, runId, event: { ...event } });
  }

  private on(kind: Kind, listener: (...news: never[]) => void): () => void {
    this.listeners.push({ kind, listener });
    return () => undefined;
  }
}

export interface Account {
  userId: string;
  password: string;
}

/** Messages of a page. */
const PAGE = 2;
const PHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Version/18.0 Safari/604.1";
const DESK = "Mozilla/5.0 (X11; Linux x86_64) Chrome/140.0 Safari/537.36";

/** Answer the HTTP doors for one account; return what was asked. */
export function stubDoors(account: Account, threads: Record<string, Message[]> = {}) {
  const asked: { method: string; path: string; headers: Headers }[] = [];
  const session = (sessionId: string, device: string, isCurrent: boolean) => ({
    sessionId,
    device,
    createdAt: 1,
    lastSeenAt: Date.now(),
    isCurrent,
  });
  const door = {
    isSignedIn: false,
    asked,
    ways: { password: true, providers: [] as object[] },
    /** Refuses each attempt to sign in, as for too many of them. */
    retryAfterMs: null as number | null,
    sessions: [session("s2", PHONE, false), session("s1", DESK, true)],
  };
  vi.stubGlobal("fetch", (path: string, init: RequestInit) => {
    const method = init.method ?? "GET";
    asked.push({ method, path, headers: new Headers(init.headers) });
    return Promise.resolve(answer(method, path, init.body as string | undefined));
  });
  return door;

  function answer(method: string, path: string, body?: string): Response {
    if (path === "/api/signin") return json(door.ways);
    if (method === "POST" && door.retryAfterMs !== null)
      return problem(429, { code: "limit_exceeded", retryAfterMs: door.retryAfterMs });
    if (path === "/api/session") {
      door.isSignedIn =
        method === "POST" && (JSON.parse(body ?? "{}") as Account).password === account.password;
      return method === "DELETE" || door.isSignedIn ? json({}) : problem(401);
    }
    if (!door.isSignedIn) return problem(401);
    if (path.startsWith("/api/sessions")) return answerSessions(method, path);
    if (path === "/api/me") return json({ userId: account.userId, expiresAt: null });
    if (path === "/api/threads")
      return json({ threads: Object.keys(threads).map(summary), nextCursor: null });
    return answerThread(path);
  }

  function answerThread(path: string): Response {
    const [threadId = "", before] = path.slice("/api/threads/".length).split("?before=");
    const all = Object.hasOwn(threads, threadId) ? threads[threadId] : undefined;
    if (all === undefined) return problem(404);
    const end = before === undefined ? all.length : Number(before);
    const start = Math.max(end - PAGE, 0);
    const messages = all.slice(start, end);
    const more = { head: "e-9", interrupts: [], before: start > 0 ? String(start) : null };
    return json({ ...summary(threadId), messages, ...more });
  }

  function answerSessions(method: string, path: string): Response {
    if (method === "GET") return json({ sessions: door.sessions });
    const [, sessionId] = path.split("/api/sessions/");
    const left = door.sessions.filter((one) => sessionId && one.sessionId !== sessionId);
    if (left.length === door.sessions.length) return problem(404);
    door.sessions = left;
    door.isSignedIn = left.some(({ isCurrent }) => isCurrent);
    return json({});
  }
}

const summary = (threadId: string) => ({
  threadId,
  title: `Title of ${threadId}`,
  createdAt: 1,
  updatedAt: 1,
  activeRunId: null,
});
const json = (body: object) => new Response(JSON.stringify(body));
const problem = (status: number, details: object = {}) =>
  new Response(
    JSON.stringify({ title: "no", status, code: "no", errorId: "err_9", ...details }),
    { status },
  );
