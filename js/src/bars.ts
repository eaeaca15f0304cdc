/** Where the bars of bqplot's figure stand on the page. */

/** The groups that bqplot draws for a mark with this many bars, in their order. */
function barGroups(chart: Element, count: number): Element[] {
  const marks = new Map<Element, Element[]>();
  for (const group of chart.querySelectorAll("g.bargroup")) {
    const mark = group.parentElement;
    if (mark === null) continue;
    const groups = marks.get(mark);
    if (groups === undefined) marks.set(mark, [group]);
    else groups.push(group);
  }
  return [...marks.values()].find((groups) => groups.length === count) ?? [];
}

/** The index of the centre nearest to x, or null where there is none. */
export function nearest(centres: readonly number[], x: number): number | null {
  let best: number | null = null;
  let distance = Infinity;
  centres.forEach((centre, index) => {
    const away = Math.abs(centre - x);
    if (away < distance) [best, distance] = [index, away];
  });
  return best;
}

function contains({ left, right, top, bottom }: DOMRect, x: number, y: number): boolean {
  return left <= x && x <= right && top <= y && y <= bottom;
}

/**
 * The bar that a point of the page belongs to, or null outside of the plot. A point between two
 * bars, or above a bar of no height, belongs to the nearest.
 */
export function barAt(chart: Element, count: number, x: number, y: number): number | null {
  const plot = chart.querySelector(".plotarea_background") ?? chart;
  if (!contains(plot.getBoundingClientRect(), x, y)) return null;
  const centres = barGroups(chart, count).map((group) => {
    const { left, right } = (group.querySelector(".bar") ?? group).getBoundingClientRect();
    return (left + right) / 2;
  });
  return nearest(centres, x);
}
