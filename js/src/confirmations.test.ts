import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { Confirmations, type Joint } from "./confirmations";
import type { Painted } from "./messages";

let sent: Joint[];
let confirmations: Confirmations;

beforeEach(() => {
  vi.useFakeTimers();
  sent = [];
  confirmations = new Confirmations((joint) => sent.push(joint));
});

afterEach(() => {
  vi.useRealTimers();
});

function confirm(frame: number, waited = 0, painted: Painted[] = []): void {
  const applied_at = frame * 16;
  confirmations.take({ type: "confirm", frame, animation_frame: frame, applied_at, waited, painted });
}

it("sends a confirmation that may not wait at once", () => {
  confirm(1);
  expect(sent).toMatchObject([{ type: "confirm", frame: 1, animation_frame: 1, earlier: [] }]);
});

it("sends those that may wait with the next that may not", () => {
  for (const frame of [1, 2]) confirmations.mayWait(frame);
  for (const frame of [1, 2]) confirm(frame);
  expect(sent).toEqual([]);
  confirm(3);
  confirm(4);
  expect(sent.map(({ frame, earlier }) => [frame, earlier])).toEqual([
    [3, [1, 2]],
    [4, []],
  ]);
});

it("joins what they tell: the longest wait and every paint", () => {
  for (const frame of [2, 3]) confirmations.mayWait(frame);
  confirm(2, 5, [[1, 17]]);
  confirm(3, 40, [[2, 33]]);
  confirm(4, 1, []);
  expect(sent).toMatchObject([
    {
      frame: 4,
      waited: 40,
      painted: [
        [1, 17],
        [2, 33],
      ],
    },
  ]);
});

it("sends what it holds with a frame that was dropped, which never waits", () => {
  for (const frame of [1, 2]) confirmations.mayWait(frame);
  confirm(1);
  confirmations.take({ type: "confirm", frame: 2, dropped: true });
  expect(sent).toEqual([{ type: "confirm", frame: 2, dropped: true, earlier: [1] }]);
});

it("keeps none for long when no later frame comes", () => {
  for (const frame of [1, 2]) confirmations.mayWait(frame);
  confirm(1);
  vi.advanceTimersByTime(200);
  confirm(2);
  vi.advanceTimersByTime(40);
  expect(sent).toEqual([]);
  vi.advanceTimersByTime(20);
  expect(sent.map(({ frame, earlier }) => [frame, earlier])).toEqual([[2, [1]]]);
  vi.advanceTimersByTime(1000);
  expect(sent).toHaveLength(1);
});

it("sends nothing after its end", () => {
  confirmations.mayWait(1);
  confirm(1);
  confirmations.close();
  vi.advanceTimersByTime(1000);
  expect(sent).toEqual([]);
});
