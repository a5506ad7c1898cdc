/** Questions of agents, and people's answers. The log has only the questions. */
import type { UserStorage } from "./storage";
import type { Interrupt } from "./wire";

export interface Reply {
  /** `left`: another question was asked instead. `elsewhere`: another device answered. */
  kind: "approved" | "declined" | "answered" | "left" | "elsewhere";
  words?: string;
}

/** A question of an agent that is settled. */
export interface Asked {
  /** Ids of the interrupts. */
  ids: readonly string[];
  texts: readonly string[];
  /** The message after which it was asked. */
  afterId: string;
  reply: Reply;
}

/** Most settled questions that are kept per thread. */
const MOST = 100;

export function toAsked(interrupts: readonly Interrupt[], afterId: string, reply: Reply): Asked {
  const texts = interrupts.map(({ message, reason }) => message ?? reason);
  return { ids: interrupts.map(({ id }) => id), texts, afterId, reply };
}

export function isAbout({ ids }: Asked, interrupts: readonly Interrupt[]): boolean {
  return interrupts.some(({ id }) => ids.includes(id));
}

/** Return the list with `asked` in place of an older entry for the same question. */
export function withAsked(list: readonly Asked[], asked: Asked): readonly Asked[] {
  return [...list.filter(({ ids }) => ids[0] !== asked.ids[0]), asked];
}

export function loadAsked(storage: UserStorage | null, threadId: string): readonly Asked[] {
  try {
    const list: unknown = JSON.parse(storage?.get("asked", threadId) ?? "[]");
    return Array.isArray(list) ? (list as Asked[]).filter(isWhole) : [];
  } catch {
    return []; // another version's, or cut off
  }
}

export function saveAsked(
  storage: UserStorage | null,
  threadId: string,
  list: readonly Asked[],
): void {
  storage?.set("asked", threadId, list.length === 0 ? "" : JSON.stringify(list.slice(-MOST)));
}

function isWhole({ ids, texts, reply }: Partial<Asked>): boolean {
  return Array.isArray(ids) && Array.isArray(texts) && reply !== undefined;
}

/** Return a reply as JSON when it is JSON, because agents may ask for objects. */
export function toPayload({ kind, words = "" }: Reply): unknown {
  if (kind === "approved") return true;
  try {
    return JSON.parse(words);
  } catch {
    return words;
  }
}
