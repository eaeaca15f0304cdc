/** What a model takes: one value for each trait that changes. */
export type State = Record<string, unknown>;

export interface Update {
  target: string;
  state: State;
}

export interface Frame {
  number: number;
  updates: Update[];
}

/** A value that travels beside the JSON, in the message's list of buffers. */
interface BufferReference {
  buffer: number;
  dtype: string;
}

const READERS: Record<string, (bytes: ArrayBuffer) => unknown> = {
  float32: (bytes) => new Float32Array(bytes),
  float64: (bytes) => new Float64Array(bytes),
  int32: (bytes) => new Int32Array(bytes),
  uint8: (bytes) => new Uint8Array(bytes),
  dataview: (bytes) => new DataView(bytes),
};

function isBufferReference(value: unknown): value is BufferReference {
  return (
    typeof value === "object" &&
    value !== null &&
    typeof (value as BufferReference).buffer === "number" &&
    typeof (value as BufferReference).dtype === "string"
  );
}

function decodeValue(value: unknown, buffers: readonly (DataView | ArrayBuffer)[]): unknown {
  if (!isBufferReference(value)) return value;
  const source = buffers[value.buffer];
  const read = READERS[value.dtype];
  if (source === undefined) throw new RangeError(`the frame has no buffer ${value.buffer}`);
  if (read === undefined) throw new TypeError(`unknown dtype ${value.dtype}`);
  // JupyterLab hands over views of one block of memory that start at any byte in it, where a typed
  // array wants a multiple of its element's size; other front ends hand over the bytes themselves.
  const bytes = ArrayBuffer.isView(source)
    ? new Uint8Array(source.buffer, source.byteOffset, source.byteLength)
    : new Uint8Array(source);
  return read(bytes.slice().buffer);
}

/**
 * The frame with typed arrays in place of references to the message's buffers. A target whose
 * values can't be read is reported and left out; the frame itself is always confirmed.
 */
export function decodeFrame(frame: Frame, buffers: readonly (DataView | ArrayBuffer)[]): Frame {
  const updates = frame.updates.flatMap(({ target, state }) => {
    try {
      const values = Object.entries(state).map(([trait, value]) => [trait, decodeValue(value, buffers)]);
      return [{ target, state: Object.fromEntries(values) as State }];
    } catch (error) {
      console.error(`[gradflow] frame ${frame.number} can't be read for "${target}"`, error);
      return [];
    }
  });
  return { number: frame.number, updates };
}
