/** The list of the user's threads, loaded page by page and updated by `thread` frames. */
import type { ThreadFrame } from "@isolane/client";
import * as api from "./api";
import { Store } from "./store";
import type { ThreadSummary } from "./wire";

interface ListState {
  threads: readonly ThreadSummary[];
  nextCursor: string | null;
  isLoaded: boolean;
}

/** Most changes that are kept during one load; further ones come with the next load. */
const TOLD_MAX = 100;

const EMPTY: ListState = { threads: [], nextCursor: null, isLoaded: false };

export class ThreadList extends Store<ListState> {
  /** Changes since the start of the last load, which may lack them. */
  private told: ThreadFrame[] = [];
  private isOf = Symbol("user");

  constructor(private readonly onProblem: (problem: unknown) => void) {
    super(EMPTY);
  }

  /** Clear the list; answers that are still on the way belong to the earlier user. */
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

  /** Apply a thread's change; return whether the thread was deleted. */
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

/** The latest change first, each thread once, because a page may repeat a frame's change. */
function sorted(threads: readonly ThreadSummary[]): ThreadSummary[] {
  const byId = new Map<string, ThreadSummary>();
  for (const thread of threads) if (!byId.has(thread.threadId)) byId.set(thread.threadId, thread);
  return [...byId.values()].sort((one, other) => other.updatedAt - one.updatedAt);
}
