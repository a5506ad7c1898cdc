/** A promise with the two functions that settle it. */
export interface Pledge<T> {
  readonly promise: Promise<T>;
  readonly resolve: (value: T) => void;
  readonly reject: (error: Error) => void;
}

/** Return a promise whose rejection needs no handler. */
export function newPledge<T>(): Pledge<T> {
  let resolve: Pledge<T>["resolve"] = () => undefined;
  let reject: Pledge<T>["reject"] = () => undefined;
  const promise = new Promise<T>((whenKept, whenBroken) => {
    resolve = whenKept;
    reject = whenBroken;
  });
  promise.catch(() => undefined); // The app may leave a run's fate to its events.
  return { promise, resolve, reject };
}

/** Remove the pledge of a run from the map and return it, if there is one. */
export function settle<T>(all: Map<string, Pledge<T>>, runId: string): Pledge<T> | undefined {
  const pledge = all.get(runId);
  all.delete(runId);
  return pledge;
}
