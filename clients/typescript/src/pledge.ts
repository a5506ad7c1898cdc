/** A promise, and those who settle it. */
export interface Pledge<T> {
  readonly promise: Promise<T>;
  readonly resolve: (value: T) => void;
  readonly reject: (error: Error) => void;
}

/** Return a promise that nobody need look at. */
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

/** Take out the pledge for a run, if there is one. */
export function settle<T>(all: Map<string, Pledge<T>>, runId: string): Pledge<T> | undefined {
  const pledge = all.get(runId);
  all.delete(runId);
  return pledge;
}
