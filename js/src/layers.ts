export interface Layer {
  name: string;
  kind: string;
  shape: string;
}

const BYTES = Float64Array.BYTES_PER_ELEMENT;

/** The numbers of every layer, as they came from the kernel. */
export interface LayerNumbers {
  layers: readonly Layer[];
  columns: readonly string[];
  values: DataView;
  /** What stands in for each value, row by row; empty where nothing does. */
  states: readonly (readonly string[])[];
  /** The verdict on each layer; empty where it is not judged. */
  problems: readonly string[];
  notes: Notes;
}

/** Quantities of a layer's own: names for each layer, and mean, lowest and highest of each. */
export interface Notes {
  names: readonly (readonly string[])[];
  values: DataView;
}

/** Mean, lowest and highest value over a layer's units. */
export interface Note {
  name: string;
  mean: number;
  low: number;
  high: number;
}

/** Norms of the signal gradient at each time step: a column for each recurrent layer. */
export interface TimeNumbers {
  layers: readonly string[];
  values: DataView;
}

function numberAt(values: DataView, index: number): number {
  const offset = index * BYTES;
  return offset + BYTES <= values.byteLength ? values.getFloat64(offset, true) : Number.NaN;
}

/** The value in this row and column; NaN where none came. */
export function valueAt({ values, columns }: LayerNumbers, row: number, column: number): number {
  return numberAt(values, row * columns.length + column);
}

/** What stands in for the value in this row and column; empty where nothing does. */
export function stateAt({ states }: LayerNumbers, row: number, column: number): string {
  return states[row]?.[column] ?? "";
}

/** The verdict on a layer, in a word. */
export function verdictOn({ problems }: LayerNumbers, layer: number): string {
  return problems[layer] || "not judged";
}

/** The notes of a layer; none where it has none. */
export function notesOf({ notes }: LayerNumbers, layer: number): Note[] {
  const before = notes.names.slice(0, layer).reduce((count, names) => count + names.length, 0);
  return (notes.names[layer] ?? []).map((name, index) => {
    const [mean, low, high] = [0, 1, 2].map((part) => numberAt(notes.values, 3 * (before + index) + part));
    return { name, mean, low, high } as Note;
  });
}

/** How many time steps there are. */
export function timeSteps({ layers, values }: TimeNumbers): number {
  return layers.length === 0 ? 0 : Math.floor(values.byteLength / BYTES / layers.length);
}

/** The norm at a time step of a recurrent layer; NaN where its sequence has ended. */
export function timeValueAt({ layers, values }: TimeNumbers, step: number, layer: number): number {
  return numberAt(values, step * layers.length + layer);
}
