/** What is written and not sent yet: kept in this browser, so that a reload or a lost session spares it. */
import type { ChatState } from "./state";
import type { UserStorage } from "./storage";
import { Store } from "./store";

/** Name of the draft of a new conversation, whose id changes each time. */
const NEW = "new conversation";

/** Return the name of the open conversation's draft: its thread's id, once that stands. */
export function draftOf({ phase, threadId }: Pick<ChatState, "phase" | "threadId">): string {
  return phase === "new" ? NEW : threadId;
}

interface Texts {
  /** By `draftOf`. */
  texts: ReadonlyMap<string, string>;
}

export class Drafts extends Store<Texts> {
  private storage: UserStorage | null = null;
  /** Questions that the server hasn't accepted yet, by run; the stored draft begins with them. */
  private readonly untaken = new Map<string, { name: string; text: string }>();

  constructor() {
    super({ texts: new Map() });
  }

  /** Begin with what this browser keeps of a user; null when nobody is signed in. */
  open(storage: UserStorage | null): void {
    this.untaken.clear();
    this.storage = storage;
    this.set({ texts: storage?.load("draft") ?? new Map() });
  }

  write(name: string, text: string): void {
    this.set({ texts: new Map([...this.get().texts, [name, text]]) });
    this.keep(name);
  }

  /** Empty a draft whose text was sent. It is kept until `settle`. */
  send(name: string, runId: string, text: string): void {
    this.untaken.set(runId, { name, text });
    this.write(name, "");
  }

  /** The server has accepted or refused a question. */
  settle(runId: string): void {
    const { name } = this.untaken.get(runId) ?? {};
    this.untaken.delete(runId);
    if (name !== undefined) this.keep(name);
  }

  /** Restore the text of a refused question, unless another text was written meanwhile. */
  giveBack(name: string, text: string): void {
    this.write(name, this.textOf(name) || text);
  }

  /** Move the draft of a conversation that never began into a new one. */
  moveOn(name: string): void {
    const text = this.textOf(name);
    if (text === "" || this.textOf(NEW) !== "") return;
    this.write(NEW, text);
    this.write(name, "");
  }

  private keep(name: string): void {
    const untaken = [...this.untaken.values()].filter((one) => one.name === name);
    const texts = [...untaken.map(({ text }) => text), this.textOf(name)];
    this.storage?.set("draft", name, texts.filter((text) => text !== "").join("\n\n"));
  }

  private textOf(name: string): string {
    return this.get().texts.get(name) ?? "";
  }
}
