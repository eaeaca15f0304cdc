import { expect, it } from "vitest";
import { removeLeftovers } from "./leftovers";

function figure(marks: string): Element {
  const holder = document.createElement("div");
  holder.innerHTML = `<svg><g>${marks}</g><g class="interaction"></g></svg>`;
  return holder;
}

const BARS = '<g class="bargroup"><rect class="bar"/></g>';
const ZERO_LINE = '<g><line class="zeroLine"/></g>';

it("removes the empty groups beside the zero line", () => {
  const root = figure(`<g>${BARS}<g></g><g></g>${BARS}<g></g>${ZERO_LINE}</g>`);
  removeLeftovers(root);
  expect(root.innerHTML).toBe(figure(`<g>${BARS}${BARS}${ZERO_LINE}</g>`).innerHTML);
});

it("leaves other marks and the figure's own empty groups alone", () => {
  const root = figure(`<g>${BARS}${ZERO_LINE}</g><g><g></g></g>`);
  const before = root.innerHTML;
  removeLeftovers(root);
  expect(root.innerHTML).toBe(before);
});
