/** The part of the WebSocket standard that the client uses; browsers, Node and `ws` have it. */
export interface WebSocketLike {
  onopen: ((event: never) => unknown) | null;
  onmessage: ((event: never) => unknown) | null;
  onclose: ((event: never) => unknown) | null;
  onerror: ((event: never) => unknown) | null;
  send(text: string): void;
  close(code?: number, reason?: string): void;
}

export type WebSocketType = new (url: string, protocols: string[]) => WebSocketLike;
