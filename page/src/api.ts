/** Requests over HTTP. The browser adds the session cookie; writes have the header `X-Isolane`. */
import { resolve } from "./base";
import type { Account, Session, Thread, ThreadPage, ThreadSummary, Ways } from "./wire";

/** A refusal of the server, with the server's own text. */
export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly errorId?: string,
    readonly retryAfterMs?: number,
  ) {
    super(message);
    this.name = "Problem";
  }
}

const TRIES = 5;
const WRITES = { "X-Isolane": "1" };

async function call<T>(method: string, path: string, body?: unknown): Promise<T> {
  const headers: Record<string, string> = method === "GET" ? {} : { ...WRITES };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const init: RequestInit = { method, headers, cache: "no-store", credentials: "same-origin" };
  if (body !== undefined) init.body = JSON.stringify(body);
  const response = await send(path, init);
  if (!response.ok) throw await toProblem(response);
  const text = await response.text();
  return (text === "" ? undefined : JSON.parse(text)) as T;
}

async function send(path: string, init: RequestInit): Promise<Response> {
  try {
    return await fetch(resolve(path), init);
  } catch {
    throw new Problem(0, "unreachable", "The server can't be reached.");
  }
}

async function toProblem(response: Response): Promise<Problem> {
  const fallback = `The server answered ${response.status}.`;
  try {
    const body = (await response.json()) as Record<string, unknown>;
    const words = [body["detail"], body["title"]].find((text) => typeof text === "string");
    const errorId = typeof body["errorId"] === "string" ? body["errorId"] : undefined;
    const code = typeof body["code"] === "string" ? body["code"] : "unknown";
    const wait = typeof body["retryAfterMs"] === "number" ? body["retryAfterMs"] : undefined;
    return new Problem(response.status, code, words ?? fallback, errorId, wait);
  } catch {
    return new Problem(response.status, "unknown", fallback);
  }
}

const thread = (threadId: string) => `api/threads/${encodeURIComponent(threadId)}`;

export const loadWays = () => call<Ways>("GET", "api/signin");
export const signIn = (username: string, password: string) =>
  call<unknown>("POST", "api/session", { username, password });
export const signOut = () => call<unknown>("DELETE", "api/session");
export const loadSessions = () => call<{ sessions: Session[] }>("GET", "api/sessions");
export const endSession = (sessionId: string) =>
  call<unknown>("DELETE", `api/sessions/${encodeURIComponent(sessionId)}`);
export const signOutEverywhere = () => call<unknown>("DELETE", "api/sessions");
export const loadAccount = () => call<Account>("GET", "api/me");
export const loadThreads = (cursor?: string) =>
  call<ThreadPage>("GET", `api/threads${cursor ? `?cursor=${encodeURIComponent(cursor)}` : ""}`);
/** Load a page of a thread: the newest messages, or those before a cursor. Waits if asked to. */
export async function loadThread(threadId: string, before?: string): Promise<Thread> {
  const query = before === undefined ? "" : `?before=${encodeURIComponent(before)}`;
  for (let tries = 1; ; tries += 1) {
    try {
      return await call<Thread>("GET", `${thread(threadId)}${query}`);
    } catch (problem) {
      if (!(problem instanceof Problem) || problem.status !== 429 || tries === TRIES) throw problem;
      await new Promise((done) => setTimeout(done, problem.retryAfterMs ?? 1000));
    }
  }
}
export const renameThread = (threadId: string, title: string) =>
  call<ThreadSummary>("PATCH", thread(threadId), { title });
export const deleteThread = (threadId: string) => call<unknown>("DELETE", thread(threadId));
