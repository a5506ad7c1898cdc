/** Which thread the page's address names. */

/** Return the name that a hash has, "" for a new conversation. Whatever it says, it is no error. */
export function toName(hash: string): string {
  const named = hash.slice(1);
  try {
    return decodeURIComponent(named);
  } catch {
    return named;
  }
}

/** What names nothing at the server, and what a path can't have for a name: `.` is the path itself. */
const NO_NAMES = /^(none|null|undefined|placeholder|\.{1,2})$/i;

/** Return whether there can be a thread of that name; the server isn't asked for others. */
export function isThreadId(named: string): boolean {
  return /^[A-Za-z0-9._:-]{1,128}$/.test(named) && !NO_NAMES.test(named);
}
