import { expect, it } from "vitest";
import { exact, numberOrReason, scientific } from "./format";

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

it("zero, missing, frozen, NaN, infinite and unknown numbers are told apart, and from none yet", () => {
  const told = (value: number, state: string) => numberOrReason(value, state, scientific);
  const words = [
    told(0, "zero"),
    told(Number.NaN, "none"),
    told(Number.NaN, "frozen"),
    told(Number.NaN, "nan"),
    told(Infinity, "inf"),
    told(Number.NaN, "unknown"),
    told(Number.NaN, ""),
  ];
  expect(words).toEqual(["0", "no gradient", "frozen", "NaN", "infinite", "no number to tell", "–"]);
});

it("weights that are frozen have not changed by 0, while a signal arrives at them", () => {
  expect(numberOrReason(0, "frozen", scientific)).toBe("frozen");
  expect(numberOrReason(0, "none", scientific)).toBe("no gradient");
  expect(numberOrReason(0.25, "frozen", scientific)).toBe("2.50e-1");
});
