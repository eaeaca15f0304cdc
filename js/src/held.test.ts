import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { HeldHeight } from "./held";
import { Layout } from "./testing";

let element: HTMLElement;
let held: HeldHeight;
/** Lays the element out with words that need so much room, as a browser does. */
let layOut: (width: number, words: number) => number;

beforeEach(() => {
  const layout = new Layout();
  element = document.createElement("div");
  let size = { width: 0, words: 0 };
  const height = () => Math.max(size.words, Number.parseFloat(element.style.minHeight) || 0);
  vi.spyOn(element, "getBoundingClientRect").mockImplementation(
    () => new DOMRect(0, 0, size.width, size.width && height()),
  );
  held = new HeldHeight(element);
  layOut = (width, words) => {
    size = { width, words };
    layout.settle();
    return height();
  };
});

afterEach(() => {
  held.close();
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

it("grows with its words and does not shrink with them", () => {
  expect([20, 40, 20, 30].map((words) => layOut(500, words))).toEqual([20, 40, 40, 40]);
});

it("takes what its words need at another width", () => {
  layOut(500, 40);
  expect(layOut(900, 20)).toBe(20);
});

it("keeps its height while it is not shown", () => {
  layOut(500, 40);
  layOut(0, 0);
  expect(layOut(500, 20)).toBe(40);
});
