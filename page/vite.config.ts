import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";

const { pathname } = new URL("../clients/typescript/src/index.ts", import.meta.url);
const client = decodeURIComponent(pathname);
const gateway = "http://127.0.0.1:8000";

// The page lives under a strict Content-Security-Policy: nothing inline, nothing from elsewhere.
export default defineConfig({
  base: "./", // it is served below any path
  plugins: [react()],
  resolve: { alias: { "@isolane/client": client } },
  build: {
    assetsInlineLimit: 0,
    chunkSizeWarningLimit: 1000, // KB; the page is one file, and is loaded once
    modulePreload: { polyfill: false },
    target: "es2023",
    // The first that know light-dark(): for older ones it would be lowered to what the system
    // prefers, and the theme button would do nothing.
    cssTarget: ["chrome123", "firefox120", "safari17.5"],
  },
  server: { proxy: { "/api": gateway, "/signin": gateway, "/ws": { target: gateway, ws: true } } },
  test: {
    environment: "jsdom",
    include: ["tests/**/*.test.{ts,tsx}"],
    // What is waited for ends the wait: long ones cost a sound page nothing, and a slow machine no test.
    testTimeout: 60_000,
    expect: { poll: { timeout: 15_000 } },
  },
});
