/** The list of the user's threads: loaded page by page, kept current by what the server tells. */
import type { ThreadFrame } from "@isolane/client";
import * as api from "./api";
import { Store } from "./store";
import type { ThreadSummary } from "./wire";

interface ListState {
  threads: readonly ThreadSummary[];
  nextCursor: string | null;
  isLoaded: boolean;
}

/** More changes than that during one load are told by the next. */
const TOLD_MAX = 100;

const EMPTY: ListState = { threads: [], nextCursor: null, isLoaded: false };

export class ThreadList extends Store<ListState> {
  /** What was told since the last load began, which may not know of it. */
  private told: ThreadFrame[] = [];
  private isOf = Symbol("user");

  constructor(private readonly onProblem: (problem: unknown) => void) {
    super(EMPTY);
  }

  /** Forget the list; what is still on its way is another user's by now. */
  clear(): void {
    this.isOf = Symbol("user");
    this.set(EMPTY);
  }

  /** Load the newest threads; frames may have been missed. */
  async reload(): Promise<void> {
    const { isOf } = this;
    await this.guard(async () => {
      this.told = [];
      const { threads, nextCursor } = await api.loadThreads();
      if (isOf !== this.isOf) return;
      this.set({ threads: sorted(threads), nextCursor, isLoaded: true });
      for (const frame of this.told) this.apply(frame);
    });
  }

  async loadMore(): Promise<void> {
    const cursor = this.get().nextCursor;
    const { isOf } = this;
    if (cursor === null) return;
    await this.guard(async () => {
      const { threads, nextCursor } = await api.loadThreads(cursor);
      if (isOf !== this.isOf) return;
      this.set({ threads: sorted([...this.get().threads, ...threads]), nextCursor });
    });
  }

  /** Take in a thread's change; return whether it was deleted. */
  take(frame: ThreadFrame): boolean {
    this.told = [...this.told, frame].slice(-TOLD_MAX);
    this.apply(frame);
    return frame.deleted;
  }

  private apply(frame: ThreadFrame): void {
    const { threadId, title, updatedAt, activeRunId, deleted } = frame;
    const others = this.get().threads.filter((thread) => thread.threadId !== threadId);
    if (deleted) {
      this.set({ threads: others });
      return;
    }
    const old = this.get().threads.find((thread) => thread.threadId === threadId);
    const createdAt = old?.createdAt ?? updatedAt;
    const changed = { threadId, title, createdAt, updatedAt, activeRunId };
    this.set({ threads: sorted([changed, ...others]) });
  }

  async rename(threadId: string, title: string): Promise<void> {
    await this.guard(async () => {
      const renamed = await api.renameThread(threadId, title);
      const put = (one: ThreadSummary) =>
        one.threadId === threadId ? { ...one, ...renamed } : one;
      this.set({ threads: sorted(this.get().threads.map(put)) });
    });
  }

  async remove(threadId: string): Promise<void> {
    await this.guard(async () => {
      await api.deleteThread(threadId);
      this.set({ threads: this.get().threads.filter((one) => one.threadId !== threadId) });
    });
  }

  private async guard(act: () => Promise<void>): Promise<void> {
    try {
      await act();
    } catch (problem) {
      this.onProblem(problem);
    }
  }
}

/** The newest change first, each thread once: a page may hold what a frame has told already. */
function sorted(threads: readonly ThreadSummary[]): ThreadSummary[] {
  const byId = new Map<string, ThreadSummary>();
  for (const thread of threads) if (!byId.has(thread.threadId)) byId.set(thread.threadId, thread);
  return [...byId.values()].sort((one, other) => other.updatedAt - one.updatedAt);
}
