import { expect, it, vi } from "vitest";

it("ids are unlike each other, also those of another widget with its own copy of the module", async () => {
  const ids = [];
  for (let widget = 0; widget < 2; widget += 1) {
    vi.resetModules();
    const { newId } = await import("./ids");
    ids.push(newId("heading"), newId("heading"));
  }
  expect(new Set(ids).size).toBe(4);
});
