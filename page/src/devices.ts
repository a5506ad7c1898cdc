/** A session in words: on what it was begun, and when. */

/** What a browser calls itself begins with others' names, so the first that fits here counts. */
const BROWSERS: readonly [RegExp, string][] = [
  [/\bEdg(e|A|iOS)?\//, "Edge"],
  [/\b(OPR|OPiOS)\//, "Opera"],
  [/\bSamsungBrowser\//, "Samsung Internet"],
  [/\b(Firefox|FxiOS)\//, "Firefox"],
  [/(Chrome|Chromium|CriOS)\//, "Chrome"],
  [/\bVersion\/.*\bSafari\//, "Safari"],
];
const SYSTEMS: readonly [RegExp, string][] = [
  [/\biPhone\b/, "iPhone"],
  [/\biPad\b/, "iPad"],
  [/\bAndroid\b/, "Android"],
  [/\bWindows\b/, "Windows"],
  [/\bMac OS X\b|\bMacintosh\b/, "macOS"],
  [/\bCrOS\b/, "ChromeOS"],
  [/\bLinux\b/, "Linux"],
];
const UNITS: readonly [Intl.RelativeTimeFormatUnit, number][] = [
  ["day", 86_400_000],
  ["hour", 3_600_000],
  ["minute", 60_000],
];
const LONGEST_NAME = 40;
const RELATIVE = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
const DATE = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "short" });

/** Return a short name for what sends this user agent. */
export function nameOf(userAgent: string): string {
  const browser = BROWSERS.find(([mark]) => mark.test(userAgent))?.[1];
  const system = SYSTEMS.find(([mark]) => mark.test(userAgent))?.[1];
  if (browser !== undefined) return system === undefined ? browser : `${browser} on ${system}`;
  const product = /^[^/\s]+/.exec(userAgent)?.[0].slice(0, LONGEST_NAME);
  return system ?? product ?? "Unknown device";
}

/** Return how long ago `at` was; what is under a minute the server doesn't tell apart. */
export function sinceWords(at: number, now: number): string {
  for (const [unit, length] of UNITS) {
    const passed = Math.floor((now - at) / length);
    if (passed >= 1) return RELATIVE.format(-passed, unit);
  }
  return "just now";
}

export const dateWords = (at: number): string => DATE.format(at);
