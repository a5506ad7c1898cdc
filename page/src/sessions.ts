/** Where the user is signed in: loaded when they ask, and ended one by one. */
import * as api from "./api";
import { Problem } from "./api";
import { nameOf } from "./devices";
import { Store } from "./store";
import type { Session } from "./wire";

interface ListState {
  sessions: readonly Session[];
  /** When they were loaded; 0 as long as they weren't. */
  loadedAt: number;
  /** What was done, for those who don't see it. */
  news: string;
}

export class SessionList extends Store<ListState> {
  constructor(private readonly onProblem: (problem: unknown) => void) {
    super({ sessions: [], loadedAt: 0, news: "" });
  }

  async load(): Promise<void> {
    try {
      const { sessions } = await api.loadSessions();
      const ownFirst = sessions.toSorted((a, b) => Number(b.isCurrent) - Number(a.isCurrent));
      this.set({ sessions: ownFirst, loadedAt: Date.now() });
    } catch (problem) {
      this.onProblem(problem);
    }
  }

  async end({ sessionId, device }: Session): Promise<void> {
    try {
      await api.endSession(sessionId);
    } catch (problem) {
      const isGone = problem instanceof Problem && problem.status === 404;
      if (!isGone) return this.onProblem(problem);
    }
    this.set({ news: `${nameOf(device)} is signed out.` });
    await this.load();
  }
}
