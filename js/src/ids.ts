/** Each widget of a page loads a copy of this module for itself, and each copy counts from 1. */
const copy = Math.random().toString(36).slice(2);
let count = 0;

/** An id that nothing else in the page has. */
export function newId(name: string): string {
  count += 1;
  return `gradflow-${name}-${copy}-${count}`;
}
