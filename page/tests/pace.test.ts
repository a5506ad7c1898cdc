import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { LONGEST_MS, Pace, SHORTEST_MS } from "../src/pace";

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

test("what comes together is handed over together, in order", () => {
  const batches: number[][] = [];
  const pace = new Pace<number>((batch) => batches.push([...batch]));
  [1, 2, 3].forEach((item) => pace.add(item));
  vi.advanceTimersByTime(SHORTEST_MS);
  pace.add(4);
  pace.flush();
  expect(batches).toEqual([[1, 2, 3], [4]]);
});

test("slow drawing slows the batches, within bounds", () => {
  const take = vi.fn(() => vi.advanceTimersByTime(100));
  const pace = new Pace<number>(take);
  pace.add(1);
  pace.flush();
  vi.advanceTimersByTime(0);
  pace.add(2);
  vi.advanceTimersByTime(150);
  expect(take).toHaveBeenCalledTimes(1);
  vi.advanceTimersByTime(LONGEST_MS);
  expect(take).toHaveBeenCalledTimes(2);
});

test("what is forgotten isn't handed over", () => {
  const take = vi.fn();
  const pace = new Pace<number>(take);
  pace.add(1);
  pace.clear();
  vi.advanceTimersByTime(LONGEST_MS);
  expect(take).not.toHaveBeenCalled();
});
