import type { BaseEvent, Message, RunStartedEvent } from "@ag-ui/client";

const says = (message: Message): string => JSON.stringify([message.role, message.content]);

/**
 * Return the message to go back to when a list was edited since it was in line with the thread.
 *
 * `standing` is the thread as this client last saw it. A list that isn't its beginning with one
 * message behind it says nothing: clients also shorten what they send.
 */
export function rewindTo(
  messages: readonly Message[],
  standing: readonly Message[],
): string | undefined {
  const kept = messages.slice(0, -1);
  const last = messages.at(-1);
  if (last?.role !== "user" || !kept.every(({ id }, place) => id === standing[place]?.id)) return;
  const replaced = standing[kept.length];
  if (replaced === undefined) return; // nothing was taken out
  const isSame = replaced.id === last.id && says(replaced) === says(last);
  const later = standing.slice(kept.length + 1);
  // The last question, word for word: the gateway answers it anew by itself.
  if (isSame && !later.some(({ role }) => role === "user")) return;
  return replaced.id;
}

/** Return those of a thread's messages that a run with this first event leaves standing. */
export function beforeRun(messages: Message[], started: BaseEvent): Message[] {
  const { input } = started as RunStartedEvent;
  const props = input?.forwardedProps as { rewindTo?: unknown } | undefined;
  const place = messages.findIndex(({ id }) => id === props?.rewindTo);
  return place < 0 ? messages : messages.slice(0, place);
}
