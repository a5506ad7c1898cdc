/** Return an id that nobody else has. `crypto.randomUUID` exists on secure origins only. */
export function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Return a user's name as their provider writes it: in an id some of its characters are encoded. */
export function toName(userId: string): string {
  try {
    return decodeURIComponent(userId);
  } catch {
    return userId;
  }
}
