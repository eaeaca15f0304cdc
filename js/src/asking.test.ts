import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { Asking } from "./asking";

const ask = vi.fn();
let asking: Asking;

beforeEach(() => {
  vi.useFakeTimers();
  ask.mockReset();
  asking = new Asking(ask);
});

afterEach(() => vi.useRealTimers());

it("asks again and again, each time after twice as long", () => {
  asking.begin();
  const times: number[] = [];
  ask.mockImplementation(() => times.push(Date.now() - start));
  const start = Date.now();
  vi.advanceTimersByTime(15_000);
  expect(times).toEqual([1000, 3000, 7000, 15_000]);
});

it("asks no more once it is answered", () => {
  asking.begin();
  vi.advanceTimersByTime(1000);
  asking.end();
  vi.advanceTimersByTime(60_000);
  expect(ask).toHaveBeenCalledTimes(1);
  expect(vi.getTimerCount()).toBe(0);
});
