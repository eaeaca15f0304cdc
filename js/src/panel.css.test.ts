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

/** A colour of bars alone; all others are of text too. */
const UNJUDGED = "unjudged";
const spoken = colours.filter(({ name }) => name !== UNJUDGED);

it("has a colour for each verdict, and others for the curves", () => {
  const verdicts = ["healthy", "vanishing", "exploding", "severed"];
  expect(spoken.map(({ name }) => name)).toEqual([...verdicts, "validation", "ghost"]);
  expect(new Set(spoken.map(({ light }) => light)).size).toBe(spoken.length);
  expect(new Set(spoken.map(({ dark }) => dark)).size).toBe(spoken.length);
});

it.each(spoken)("$name is readable as text in both themes", ({ light, dark }) => {
  for (const background of BACKGROUNDS.light) expect(contrast(light, background)).toBeGreaterThanOrEqual(4.5);
  for (const background of BACKGROUNDS.dark) expect(contrast(dark, background)).toBeGreaterThanOrEqual(4.5);
});

it("draws bars without a verdict visibly, and unlike all others without any colour", () => {
  const unjudged = colours.find(({ name }) => name === UNJUDGED);
  expect(contrast(unjudged?.light ?? "", "#ffffff")).toBeGreaterThanOrEqual(3);
  expect(contrast(unjudged?.dark ?? "", "#111111")).toBeGreaterThanOrEqual(3);
  for (const { light, dark } of spoken) {
    expect(contrast(unjudged?.light ?? "", light)).toBeGreaterThanOrEqual(1.5);
    expect(contrast(unjudged?.dark ?? "", dark)).toBeGreaterThanOrEqual(1.5);
  }
});
