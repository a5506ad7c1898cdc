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

/** Return whether there can be a thread of that name; the server isn't asked for others. */
export function isThreadId(named: string): boolean {
  return /^[A-Za-z0-9._:-]{1,128}$/.test(named);
}
