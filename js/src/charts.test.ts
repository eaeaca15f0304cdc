import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { nameEveryChart } from "./charts";

let root: HTMLElement;
let leave: () => void;

async function mutated(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve));
}

const FIGURE = `<div class="gradflow-chart-bars bqplot"><svg class="svg-background"></svg>
  <svg class="svg-figure"><g class="fig"></g></svg></div>`;

/** Draws what bqplot draws once its figure is in the page. */
function draw(title: string): Element {
  const figure = root.querySelector(".svg-figure") as Element;
  const heading = document.createElementNS(figure.namespaceURI, "text");
  heading.setAttribute("class", "mainheading");
  heading.textContent = title;
  figure.append(document.createElementNS(figure.namespaceURI, "defs"));
  figure.querySelector(".fig")?.append(heading);
  return heading;
}

function nameOf(chart: string): string {
  const ids = root.querySelector(`${chart} .svg-figure`)?.getAttribute("aria-labelledby")?.split(" ") ?? [];
  return ids.map((id) => document.getElementById(id)?.textContent).join(". ");
}

beforeEach(() => {
  root = document.createElement("div");
  root.innerHTML = `<div class="gradflow-charts"></div>`;
  document.body.append(root);
  leave = nameEveryChart(root);
});

afterEach(() => {
  leave();
  root.remove();
  vi.restoreAllMocks();
});

it("a chart is an image with its title as a name, which goes on to where its numbers are", async () => {
  root.querySelector(".gradflow-charts")?.insertAdjacentHTML("beforeend", FIGURE);
  await mutated();
  const heading = draw("Gradient flow");
  await mutated();
  expect(root.querySelector(".svg-figure")?.getAttribute("role")).toBe("img");
  expect(nameOf(".gradflow-chart-bars")).toBe("Gradient flow. Its numbers are in the layer table.");

  heading.textContent = "Update ratio";
  expect(nameOf(".gradflow-chart-bars")).toBe("Update ratio. Its numbers are in the layer table.");
});

it("looks at nothing that is drawn in a chart, and ends when it is left", async () => {
  root.querySelector(".gradflow-charts")?.insertAdjacentHTML("beforeend", FIGURE);
  draw("Gradient flow");
  await mutated();
  const looks = vi.spyOn(root, "querySelectorAll");
  const figure = root.querySelector(".fig") as Element;
  figure.append(document.createElementNS(figure.namespaceURI, "g"));
  await mutated();
  expect(looks).not.toHaveBeenCalled();

  leave();
  root.replaceChildren();
  await mutated();
  expect(looks).not.toHaveBeenCalled();
});
