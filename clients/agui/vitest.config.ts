import { defineConfig } from "vitest/config";

// Longer than a gateway may take to start on a busy machine, and to be waited for.
const PATIENCE_MS = 60_000;

export default defineConfig({
  test: { include: ["test/**/*.test.ts"], testTimeout: PATIENCE_MS, hookTimeout: PATIENCE_MS },
});
