import { expect, test } from "vitest";
import { nameOf, sinceWords } from "../src/devices";

const MINUTE_MS = 60_000;

test.each([
  [
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
    "Chrome on Windows",
  ],
  [
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36 Edg/140.0.0.0",
    "Edge on Windows",
  ],
  [
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/140.0.0.0 Safari/537.36",
    "Chrome on Linux",
  ],
  ["Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0", "Firefox on Linux"],
  [
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Safari/605.1.15",
    "Safari on macOS",
  ],
  [
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Mobile/15E148 Safari/604.1",
    "Safari on iPhone",
  ],
  [
    "Mozilla/5.0 (iPad; CPU OS 17_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/140.0.0.0 Mobile/15E148 Safari/604.1",
    "Chrome on iPad",
  ],
  [
    "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/28.0 Chrome/130.0.0.0 Mobile Safari/537.36",
    "Samsung Internet on Android",
  ],
  ["Mozilla/5.0 (compatible; Linux)", "Linux"],
  ["python-httpx/0.28.1", "python-httpx"],
  ["x".repeat(200), "x".repeat(40)],
  ["", "Unknown device"],
])("%s has a short name", (userAgent, name) => {
  expect(nameOf(userAgent)).toBe(name);
});

test.each([
  [0, "just now"],
  [-5 * MINUTE_MS, "just now"], // the server's clock is ahead
  [MINUTE_MS - 1, "just now"],
  [MINUTE_MS, "1 minute ago"],
  [59 * MINUTE_MS, "59 minutes ago"],
  [119 * MINUTE_MS, "1 hour ago"],
  [24 * 60 * MINUTE_MS, "yesterday"],
  [3 * 24 * 60 * MINUTE_MS, "3 days ago"],
])("what passed %i ms ago is said in words", (passedMs, words) => {
  expect(sinceWords(1e12 - passedMs, 1e12)).toBe(words);
});
