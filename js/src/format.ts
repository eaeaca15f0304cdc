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

const MARKS: Readonly<Record<string, string>> = {
  zero: "exactly zero",
  none: "no gradient",
  nan: "NaN",
  inf: "infinite",
  frozen: "frozen",
};

/** What is special about a layer's gradient, in words; empty where nothing is. */
export function markInWords(mark: string): string {
  return MARKS[mark] ?? mark;
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
