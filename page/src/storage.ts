/**
 * This browser keeps two things of a user until they sign out: drafts, and what agents asked.
 *
 * Each user has keys of their own. Where there is no storage, or no room, nothing is kept and
 * nothing fails.
 */
import { resolve } from "./base";

export type Kind = "draft" | "asked";

export class UserStorage {
  private readonly user: string;

  constructor(userId: string) {
    // Encoded, for else the keys of `ada` would begin as those of `ada x` do.
    this.user = encodeURIComponent(userId);
  }

  /** Keep `text`; nothing is kept of an empty one. */
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

  /** Return all that is kept of a kind, by name. */
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

  /** Another gateway may stand at another path of the same origin. */
  private prefix(kind: Kind): string {
    return `isolane.${kind} ${resolve("")} ${this.user} `;
  }
}
