const LOG_ID = /^([a-z0-9]{1,32})-(0|[1-9][0-9]{0,14})$/;
const WIRE_ID = /^[A-Za-z0-9._:-]{1,128}$/;

/** A place in a log. */
interface Place {
  readonly epoch: string;
  readonly seq: number;
}

/** What an entry is to one who follows its thread. */
export type Verdict = "next" | "known" | "gap";

function parseId(id: string): Place | null {
  const [, epoch, seq] = LOG_ID.exec(id) ?? [];
  return epoch === undefined ? null : { epoch, seq: Number(seq) };
}

/** Throw `TypeError` unless `id` is one that the protocol takes for a thread or a run. */
export function checkWireId(name: string, id: string): void {
  if (!WIRE_ID.test(id)) throw new TypeError(`${name} is 1 to 128 of A-Z a-z 0-9 . _ : -`);
}

/** Throw `TypeError` unless `id` is a place in a log. */
export function checkLogId(name: string, id: string): void {
  if (parseId(id) === null) throw new TypeError(`${name} is no id of a log's entry`);
}

/** A followed thread: how far the app has it. Pure. */
export class Thread {
  /** The id of the last entry that was applied, or where to begin; undefined is the start. */
  after: string | undefined;
  /** The server has answered on this connection: entries may come. */
  isLive = false;
  /** When to ask again, in ms; the server refused for now. */
  retryAt = Infinity;
  tries = 0;
  /** The number that ends the catching up; null when it has ended. */
  #goal: number | null = null;
  /** The place of `after`; null where only the server knows what comes next. */
  #place: Place | null;
  /** Where numbers were missing last. */
  #gapAt: string | null = null;

  constructor(after?: string) {
    this.after = after;
    this.#place = after === undefined ? { epoch: "", seq: 0 } : parseId(after);
  }

  get isCaughtUp(): boolean {
    return this.isLive && this.#goal === null;
  }

  /** The connection is gone, and with it what was asked and promised on it. */
  lose(): void {
    this.isLive = false;
    this.retryAt = Infinity;
    this.#goal = null;
  }

  /** The server goes on from `after`. */
  resume(head: string): void {
    this.#begin();
    const goal = parseId(head)?.seq ?? 0;
    this.#goal = goal > (this.#place?.seq ?? goal) ? goal : null;
  }

  /** The server can't go on from `after`; what is kept begins wherever it begins. */
  restart(): void {
    this.#begin();
    this.#place = null;
    this.#goal = null;
  }

  judge(id: string): Verdict {
    const place = parseId(id);
    if (place === null) return "gap";
    const last = this.#place;
    if (last === null) return "next";
    // Number 0 is the start, whatever the epoch.
    if (last.seq > 0 && last.epoch !== place.epoch) return "gap";
    if (place.seq <= last.seq) return "known";
    return place.seq === last.seq + 1 ? "next" : "gap";
  }

  /** Take an entry as applied; return whether it was part of catching up. */
  apply(id: string): boolean {
    this.after = id;
    this.#place = parseId(id);
    if (this.#goal === null) return false;
    if ((this.#place?.seq ?? 0) >= this.#goal) this.#goal = null;
    return true;
  }

  /** Remember that numbers are missing here; return false when that is known already. */
  noteGap(): boolean {
    const here = this.after ?? "";
    if (this.#gapAt === here) return false;
    this.#gapAt = here;
    return true;
  }

  #begin(): void {
    this.isLive = true;
    this.tries = 0;
  }
}
