import { newId } from "./ids";

/** By the class of its figure: where a chart's numbers are for those who don't see it. */
const NUMBERS: Readonly<Record<string, string>> = {
  "gradflow-chart-bars": "Its numbers are in the layer table.",
  "gradflow-chart-loss": "The latest loss is in the status line.",
};

/** Where bqplot puts a figure, and that into which it puts its title at last. */
const AROUND = ".gradflow-charts, .svg-figure";

function nameChart(svg: SVGSVGElement, numbers: string): void {
  const title = svg.querySelector(".mainheading");
  if (title === null) return;
  title.id ||= newId("chart");
  const elsewhere = document.createElementNS(svg.namespaceURI, "desc");
  elsewhere.id = newId("chart");
  elsewhere.textContent = numbers;
  svg.append(elsewhere);
  svg.setAttribute("role", "img");
  // By reference: bqplot writes another title into the same element.
  svg.setAttribute("aria-labelledby", `${title.id} ${elsewhere.id}`);
}

function nameCharts(root: Element): void {
  for (const [name, numbers] of Object.entries(NUMBERS)) {
    for (const svg of root.querySelectorAll<SVGSVGElement>(`.${name} > .svg-figure:not([role])`)) {
      nameChart(svg, numbers);
    }
  }
}

/**
 * Gives every chart in the widget a name for screen readers, also one that is put there, or gets its
 * title, later; the returned function ends that. Looks no deeper than at what is placed directly in
 * a figure: further down everything changes many times a second.
 */
export function nameEveryChart(root: Element): () => void {
  const observer = new MutationObserver(look);

  function look(): void {
    for (const around of [root, ...root.querySelectorAll(AROUND)]) {
      observer.observe(around, { childList: true });
    }
    nameCharts(root);
  }

  look();
  return () => observer.disconnect();
}
