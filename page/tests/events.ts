/** Events as the server writes them, for the tests. */
import type { Entry, Event, Message } from "../src/wire";

let next = 1;

export function entries(runId: string, ...events: object[]): Entry[] {
  return events.map((event) => ({ id: `e-${next++}`, runId, event: event as Event }));
}

export function started(question: Message, rewindTo?: string): object {
  const forwardedProps = rewindTo === undefined ? {} : { rewindTo };
  return { type: "RUN_STARTED", input: { messages: [question], forwardedProps } };
}

export function said(messageId: string, ...deltas: string[]): object[] {
  return [
    { type: "TEXT_MESSAGE_START", messageId, role: "assistant" },
    ...deltas.map((delta) => ({ type: "TEXT_MESSAGE_CONTENT", messageId, delta })),
    { type: "TEXT_MESSAGE_END", messageId },
  ];
}
