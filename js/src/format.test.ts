import { expect, it } from "vitest";
import { exact, markInWords, scientific } from "./format";

it.each([
  [1.2345e-4, "1.23e-4", "1.23450e-4"],
  [0.0123456789, "1.23e-2", "0.0123457"],
  [-42, "-4.20e+1", "-42.0000"],
  [3.5e7, "3.50e+7", "3.50000e+7"],
  [5e-324, "4.94e-324", "4.94066e-324"],
  [0, "0", "0"],
  [Number.NaN, "–", "–"],
  [Infinity, "infinite", "infinite"],
  [-Infinity, "−infinite", "−infinite"],
])("%d reads as %s in the table, %s in the tooltip", (value, short, long) => {
  expect(scientific(value)).toBe(short);
  expect(exact(value)).toBe(long);
});

it("zero, missing, NaN and infinite gradients are four different words", () => {
  const words = ["zero", "none", "nan", "inf"].map(markInWords);
  expect(words).toEqual(["exactly zero", "no gradient", "NaN", "infinite"]);
  expect(markInWords("")).toBe("");
});
