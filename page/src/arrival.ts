/** The result of a sign-in at a provider, which the address has. */
const KEY = "signin";
const WORDS: ReadonlyMap<string, string> = new Map([
  ["unauthenticated", "Signing in didn't work. Try again."],
  ["unavailable", "The sign-in service can't be reached. Try again in a moment."],
]);

/** Return why the sign-in failed, as a sentence, and remove the reason from the address. */
export function takeFailure(): string | null {
  const address = new URL(location.href);
  const code = address.searchParams.get(KEY);
  if (code === null) return null;
  address.searchParams.delete(KEY);
  history.replaceState(history.state, "", address);
  return WORDS.get(code) ?? "Something went wrong while signing in. Try again.";
}
