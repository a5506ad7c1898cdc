/** The thread in the page's address. */

/** Return the name in a hash, "" for a new conversation. No hash is an error. */
export function toName(hash: string): string {
  const named = hash.slice(1);
  try {
    return decodeURIComponent(named);
  } catch {
    return named;
  }
}

/** Names that no thread can have, such as `.`, which means the path itself. */
const NO_NAMES = /^(none|null|undefined|placeholder|\.{1,2})$/i;

/** Return whether a thread may have that name; the page doesn't ask the server for others. */
export function isThreadId(named: string): boolean {
  return /^[A-Za-z0-9._:-]{1,128}$/.test(named) && !NO_NAMES.test(named);
}
