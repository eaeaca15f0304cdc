/** What a cell says where there is no number. */
const NO_NUMBER = "–";

function special(value: number): string | null {
  if (Number.isNaN(value)) return NO_NUMBER;
  if (value === Infinity) return "infinite";
  if (value === -Infinity) return "−infinite";
  if (value === 0) return "0";
  return null;
}

/** Three significant digits, always with an exponent, so that a column compares at a glance. */
export function scientific(value: number): string {
  return special(value) ?? value.toExponential(2);
}

/** Six significant digits. */
export function exact(value: number): string {
  const size = Math.abs(value);
  return special(value) ?? (size >= 1e-3 && size < 1e6 ? value.toPrecision(6) : value.toExponential(5));
}

/** As in the legend of the charts; what is exactly zero or infinite, its number says. */
const STAND_INS: Readonly<Record<string, string>> = {
  none: "no gradient",
  nan: "NaN",
  frozen: "frozen",
  unknown: "no number to tell",
};

/**
 * The number as `write` has it, or in words what stands in its place. Beside such a reason a number
 * is told where there is one, such as the signal at a frozen layer.
 */
export function numberOrReason(value: number, state: string, write: (value: number) => string): string {
  const hasNumber = Number.isFinite(value) && value !== 0;
  return (hasNumber ? undefined : STAND_INS[state]) ?? write(value);
}

/** Three significant digits, as a person writes them. */
function short(value: number): string {
  const size = Math.abs(value);
  return special(value) ?? (size >= 1e-3 && size < 1e5 ? value.toPrecision(3) : value.toExponential(2));
}

/** A mean and its range, "0.123 (−0.400 … 0.610)"; one number where all are the same. */
export function meanAndRange(mean: number, low: number, high: number): string {
  const told = [mean, low, high].map((value) => short(value).replace(/^-/, "−"));
  return low === high ? (told[0] as string) : `${told[0]} (${told[1]} … ${told[2]})`;
}
