/**
 * Data that this browser keeps until a user signs out: drafts, and settled questions of agents.
 *
 * Each user has keys of their own. Where there is no storage, or no room, nothing is kept and
 * nothing fails.
 */
import { resolve } from "./base";

export type Kind = "draft" | "asked";

export class UserStorage {
  private readonly user: string;

  constructor(userId: string) {
    // Encoded, because otherwise keys of `ada x` would begin like keys of `ada`.
    this.user = encodeURIComponent(userId);
  }

  /** Keep `text`; an empty text removes the entry. */
  set(kind: Kind, name: string, text: string): void {
    const key = this.prefix(kind) + name;
    try {
      if (text === "") localStorage.removeItem(key);
      else localStorage.setItem(key, text);
    } catch {
      return;
    }
  }

  get(kind: Kind, name: string): string | null {
    return this.load(kind).get(name) ?? null;
  }

  /** Return all entries of a kind, by name. */
  load(kind: Kind): ReadonlyMap<string, string> {
    const prefix = this.prefix(kind);
    try {
      const all = Object.entries(localStorage) as [string, string][];
      const own = all.filter(([key]) => key.startsWith(prefix));
      return new Map(own.map(([key, text]) => [key.slice(prefix.length), text]));
    } catch {
      return new Map();
    }
  }

  /** Forget a thread. */
  forget(threadId: string): void {
    this.set("draft", threadId, "");
    this.set("asked", threadId, "");
  }

  /** Forget the user. */
  clear(): void {
    for (const kind of ["draft", "asked"] as const) {
      for (const name of this.load(kind).keys()) this.set(kind, name, "");
    }
  }

  /** The same origin may have another gateway at another path. */
  private prefix(kind: Kind): string {
    return `isolane.${kind} ${resolve("")} ${this.user} `;
  }
}
