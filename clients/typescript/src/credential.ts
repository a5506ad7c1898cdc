import type { CredentialReason } from "./outbox.js";

/** Returns a ticket or a token. It may throw `SignedOut`; after other errors it is called again. */
export type Credential = (reason: CredentialReason) => string | Promise<string>;

/** Thrown by `ticket` or `token` when the user is signed out: the client closes. */
export class SignedOut extends Error {
  override name = "SignedOut";
}

/**
 * Post to `url` (`/api/tickets`, by cookie or by the headers in `init`) and return the ticket.
 * Throws `SignedOut` on 401.
 */
export async function fetchTicket(url: string | URL, init: RequestInit = {}): Promise<string> {
  const response = await fetch(url, { method: "POST", ...init });
  if (response.status === 401) throw new SignedOut("no ticket without a session");
  if (!response.ok) throw new Error(`no ticket: HTTP ${String(response.status)}`);
  return ((await response.json()) as { ticket: string }).ticket;
}
