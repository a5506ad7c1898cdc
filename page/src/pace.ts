/**
 * Collects streamed entries and passes them on in batches, so that drawing never falls behind. The
 * next batch waits twice as long as the last one took to draw.
 */
export const SHORTEST_MS = 32;
export const LONGEST_MS = 600;

export class Pace<T> {
  private waiting: T[] = [];
  private timer: ReturnType<typeof setTimeout> | undefined;
  private waitMs = SHORTEST_MS;

  constructor(private readonly take: (batch: readonly T[]) => void) {}

  add(item: T): void {
    this.waiting.push(item);
    this.timer ??= setTimeout(() => this.flush(), this.waitMs);
  }

  /** Pass the waiting entries on now. */
  flush(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    if (this.waiting.length === 0) return;
    const batch = this.waiting;
    this.waiting = [];
    const since = performance.now();
    this.take(batch);
    // React draws in a microtask; a task of our own comes after it.
    setTimeout(() => this.measure(performance.now() - since));
  }

  /** Drop the waiting entries. */
  clear(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    this.waiting = [];
  }

  private measure(drawnMs: number): void {
    this.waitMs = Math.min(Math.max(2 * drawnMs, SHORTEST_MS), LONGEST_MS);
  }
}
