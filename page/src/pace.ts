/**
 * Gathers what streams in and hands it over in batches, so that drawing never falls behind: the
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

  /** Hand over what waits, now. */
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

  /** Forget what waits. */
  clear(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    this.waiting = [];
  }

  private measure(drawnMs: number): void {
    this.waitMs = Math.min(Math.max(2 * drawnMs, SHORTEST_MS), LONGEST_MS);
  }
}
