/** `@isolane/client`: one WebSocket, every thread that the app follows, each event once. */

export { IsolaneClient, RunRefused } from "./client.js";
export type { ClientOptions } from "./client.js";
export { SignedOut, fetchTicket } from "./credential.js";
export type { Credential } from "./credential.js";
export type * from "./frames.js";
export { fetchThread, loadHistory } from "./history.js";
export type { HistoryPage } from "./history.js";
export type { Entry, Listeners, State, StateDetails } from "./listeners.js";
export type { CredentialReason } from "./outbox.js";
export type { WebSocketLike, WebSocketType } from "./socket.js";
