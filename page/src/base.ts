/** Below which path the gateway is: `/`, or `/chat/` behind a proxy or in a host's app. */

// The script stands in `assets/` below it, and knows its own address, whatever the page's has become.
// In development and in tests scripts stand elsewhere, and the gateway is at the root.
const { pathname } = import.meta.env.PROD
  ? new URL(/* @vite-ignore */ "../", import.meta.url)
  : new URL("/", location.href);

/** Return the gateway's own `path` as an address of this origin. */
export const resolve = (path: string): string => pathname + path;
