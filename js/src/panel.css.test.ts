import { expect, it } from "vitest";
import css from "./panel.css?raw";

/** Relative luminance of #rrggbb (WCAG 2.2). */
function luminance(colour: string): number {
  const [red, green, blue] = [1, 3, 5].map((start) => {
    const channel = Number.parseInt(colour.slice(start, start + 2), 16) / 255;
    return channel <= 0.04045 ? channel / 12.92 : ((channel + 0.055) / 1.055) ** 2.4;
  }) as [number, number, number];
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

function contrast(colour: string, background: string): number {
  const [dark, light] = [luminance(colour), luminance(background)].sort((a, b) => a - b) as [number, number];
  return (light + 0.05) / (dark + 0.05);
}

/** JupyterLab's layout colours 0 and 1. */
const BACKGROUNDS = { light: ["#ffffff"], dark: ["#111111", "#212121"] };

const colours = [...css.matchAll(/--gradflow-(\w+): light-dark\((#\w+), (#\w+)\)/g)].map(
  ([, name, light, dark]) => ({ name, light: light as string, dark: dark as string }),
);

it("has a colour for each verdict", () => {
  expect(colours.map(({ name }) => name)).toEqual(["healthy", "vanishing", "exploding", "severed", "ghost"]);
});

it.each(colours)("$name is readable as text in both themes", ({ light, dark }) => {
  for (const background of BACKGROUNDS.light) expect(contrast(light, background)).toBeGreaterThanOrEqual(4.5);
  for (const background of BACKGROUNDS.dark) expect(contrast(dark, background)).toBeGreaterThanOrEqual(4.5);
});
