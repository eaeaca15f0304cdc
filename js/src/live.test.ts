import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { type Announcement, LiveText } from "./live";

const element = document.createElement("span");
let live: LiveText;

function announce(step: number, change: Partial<Announcement> = {}): void {
  live.update({ status: `step ${step}`, playing: false, verdict: "", problem: "", notice: "", ...change });
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

describe("while it plays", () => {
  const vanishing = { playing: true, verdict: "the signal vanishes", problem: "vanishing" };

  function play(from: number, seconds: number): string[] {
    const texts: string[] = [];
    for (let step = from; step < from + 50 * seconds; step += 1) {
      announce(step, { ...vanishing, status: `step ${step} · loss 2.3 · 50 steps/s` });
      if (texts.at(-1) !== element.textContent) texts.push(element.textContent ?? "");
      vi.advanceTimersByTime(20);
    }
    return texts;
  }

  it("says only step and loss, every ten seconds, as long as the problem is the same", () => {
    expect(play(1, 25)).toEqual([
      "step 1 · loss 2.3 · 50 steps/s. the signal vanishes",
      "step 500, loss 2.3",
      "step 1000, loss 2.3",
    ]);
  });

  it("says the whole when the problem changes", () => {
    play(1, 5);
    announce(251, { playing: true, verdict: "the signal arrives", problem: "healthy" });
    expect(element.textContent).toBe("step 251. the signal arrives");
  });

  it("says the whole when it stops, and what follows it as soon as ever", () => {
    play(1, 25);
    announce(1251, { ...vanishing, playing: false, status: "step 1251 · paused" });
    expect(element.textContent).toBe("step 1251 · paused. the signal vanishes");
    announce(1252, { ...vanishing, playing: false, status: "step 1252 · paused" });
    vi.advanceTimersByTime(2000);
    expect(element.textContent).toBe("step 1252 · paused. the signal vanishes");
  });
});
