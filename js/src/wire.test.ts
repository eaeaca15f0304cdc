import { expect, it, vi } from "vitest";
import { decodeFrame } from "./wire";

function decoded(value: unknown, buffers: (DataView | ArrayBuffer)[]): unknown {
  const frame = { number: 1, updates: [{ target: "bars", state: { y: value } }] };
  return decodeFrame(frame, buffers).updates[0]?.state.y;
}

it("a buffer that starts at an odd byte becomes a typed array of its own", () => {
  const block = new Uint8Array(1 + 16);
  block.set(new Uint8Array(Float64Array.of(0.5, Number.NaN).buffer), 1);
  const value = decoded({ buffer: 0, dtype: "float64" }, [new DataView(block.buffer, 1)]);
  expect(value).toEqual(Float64Array.of(0.5, Number.NaN));
});

it.each([
  ["float32", Float32Array.of(1.5, 2)],
  ["int32", Int32Array.of(-1, 7)],
  ["uint8", Uint8Array.of(0, 255)],
])("reads %s", (dtype, array) => {
  expect(decoded({ buffer: 0, dtype }, [new DataView(array.buffer)])).toEqual(array);
  expect(decoded({ buffer: 0, dtype }, [array.buffer])).toEqual(array);
});

it("a trait of bytes stays a DataView", () => {
  const value = decoded({ buffer: 0, dtype: "dataview" }, [new DataView(Uint8Array.of(3).buffer)]);
  expect((value as DataView).getUint8(0)).toBe(3);
});

it.each([[["#0072b2", "#d55e00"]], [{ min: 0 }], [null], [0.5], ["text"]])("plain JSON stays: %j", (value) => {
  expect(decoded(value, [])).toEqual(value);
});

it("a target whose buffer is missing is left out of its frame, and reported", () => {
  const report = vi.spyOn(console, "error").mockImplementation(() => undefined);
  const updates = [
    { target: "bars", state: { y: { buffer: 4, dtype: "float32" } } },
    { target: "line", state: { y: [1] } },
  ];
  expect(decodeFrame({ number: 9, updates }, [])).toEqual({ number: 9, updates: [updates[1]] });
  expect(report).toHaveBeenCalledTimes(1);
  report.mockRestore();
});
