/** The user's sessions, which are loaded on request and ended one by one. */
import * as api from "./api";
import { Problem } from "./api";
import { nameOf } from "./devices";
import { Store } from "./store";
import type { Session } from "./wire";

interface ListState {
  sessions: readonly Session[];
  /** Time of the load; 0 before it. */
  loadedAt: number;
  /** The last action, for screen readers. */
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
