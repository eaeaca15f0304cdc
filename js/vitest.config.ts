import { defineConfig } from "vitest/config";

export default defineConfig({
  // Without `css`, vitest hands the tests an empty style sheet.
  test: { environment: "jsdom", include: ["src/**/*.test.ts"], css: true },
});
