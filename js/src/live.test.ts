import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { type Announcement, LiveText } from "./live";

const element = document.createElement("span");
let live: LiveText;

function announce(step: number, change: Partial<Announcement> = {}): void {
  live.update({ status: `step ${step}`, verdict: "", problem: "", notice: "", ...change });
}

beforeEach(() => {
  vi.useFakeTimers();
  element.textContent = "";
  live = new LiveText(element);
});

afterEach(() => {
  live.close();
  vi.useRealTimers();
});

it("changes at most once in two seconds, and ends with the latest", () => {
  const texts = new Set<string>();
  for (let step = 0; step <= 100; step += 1) {
    announce(step);
    texts.add(element.textContent ?? "");
    vi.advanceTimersByTime(40);
  }
  expect([...texts]).toEqual(["step 0", "step 49", "step 99"]);
  vi.advanceTimersByTime(2000);
  expect(element.textContent).toBe("step 100");
});

it("speaks of a new problem at once", () => {
  announce(1);
  announce(2, { verdict: "the signal vanishes", problem: "vanishing" });
  expect(element.textContent).toBe("step 2. the signal vanishes");
});

it("speaks at once when a notice appears, and not when it goes", () => {
  announce(1);
  announce(2, { notice: "the loss is not finite" });
  expect(element.textContent).toBe("step 2");
  announce(3);
  expect(element.textContent).toBe("step 2");
});
