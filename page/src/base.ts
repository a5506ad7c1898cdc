/** The gateway's path: `/`, or for example `/chat/` behind a proxy or in a host's app. */

// The script is in `assets/` below that path, and its own address never changes.
// In development and in tests scripts are elsewhere, and the gateway is at the root.
const { pathname } = import.meta.env.PROD
  ? new URL(/* @vite-ignore */ "../", import.meta.url)
  : new URL("/", location.href);

/** Return the gateway's own `path` as an address of this origin. */
export const resolve = (path: string): string => pathname + path;
