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
  marks: readonly string[];
}

/** The value in this row and column; NaN where none came. */
export function valueAt({ values, columns }: LayerNumbers, row: number, column: number): number {
  const offset = (row * columns.length + column) * BYTES;
  return offset + BYTES <= values.byteLength ? values.getFloat64(offset, true) : Number.NaN;
}
