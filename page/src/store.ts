/** One value that is replaced and never changed, with its listeners. */
import { useSyncExternalStore } from "react";

export class Store<T extends object> {
  private readonly listeners = new Set<() => void>();

  constructor(private value: T) {}

  readonly get = (): T => this.value;

  set(change: Partial<T>): void {
    this.value = { ...this.value, ...change };
    for (const listener of [...this.listeners]) listener();
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };
}

/** Return a part of a store's value, and draw again when that part changes. */
export function useStore<T extends object, V>(store: Store<T>, pick: (value: T) => V): V {
  return useSyncExternalStore(store.subscribe, () => pick(store.get()));
}
