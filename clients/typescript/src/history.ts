import { SignedOut } from "./credential.js";
import type { Message } from "./frames.js";

/** One page of a thread's messages, as `GET /api/threads/{id}` returns it. */
export interface HistoryPage {
  readonly messages: readonly Message[];
  /** Place after the newest message, for `subscribe`. */
  readonly head: string;
  /** Cursor of the page with older messages; null when there are none. */
  readonly before: string | null;
}

/**
 * Read a thread page by page, from the newest to the oldest, and return the first page with the
 * messages of all pages. `loadPage` reads the newest page, or the one before a cursor. `onPage` is
 * called after each page with the messages so far; reading ends early when it returns false.
 */
export async function loadHistory<P extends HistoryPage>(
  loadPage: (before?: string) => Promise<P>,
  onPage: (soFar: P) => boolean = () => true,
): Promise<P> {
  let whole = await loadPage();
  while (onPage(whole) && whole.before !== null) {
    const { messages, before } = await loadPage(whole.before);
    whole = { ...whole, messages: [...messages, ...whole.messages], before };
  }
  return whole;
}

const TOO_MANY = 429;
const GONE = 410;
const TRIES = 5;

/**
 * Return all messages of the thread at `url` (`/api/threads/t1`), read by cookie or by the headers
 * in `init`, and the `head` to subscribe after. Waits when the server asks for it, and begins again
 * when the thread was edited meanwhile. Throws `SignedOut` on 401.
 */
export async function fetchThread(url: string | URL, init: RequestInit = {}): Promise<HistoryPage> {
  for (let tries = 1; ; tries += 1) {
    try {
      return await loadHistory((before) => fetchPage(url, before, init));
    } catch (problem) {
      if (!(problem instanceof Gone) || tries === TRIES) throw problem;
    }
  }
}

class Gone extends Error {
  override name = "Gone";
}

async function fetchPage(
  url: string | URL,
  before: string | undefined,
  init: RequestInit,
): Promise<HistoryPage> {
  const query = before === undefined ? "" : `?before=${encodeURIComponent(before)}`;
  for (let tries = 1; ; tries += 1) {
    const response = await fetch(`${String(url)}${query}`, init);
    if (response.ok) return (await response.json()) as HistoryPage;
    if (response.status === 401) throw new SignedOut("no thread without a session");
    const words = `no thread: HTTP ${String(response.status)}`;
    if (response.status === GONE) throw new Gone(words);
    if (response.status !== TOO_MANY || tries === TRIES) throw new Error(words);
    const waitS = Number(response.headers.get("retry-after") ?? 1);
    await new Promise((resolve) => setTimeout(resolve, waitS * 1000));
  }
}
