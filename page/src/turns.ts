/**
 * The turns of a conversation: what the thread view shows for a transcript. Pure.
 *
 * A question is a turn; all that one run said, thought and called is one turn. Turns whose
 * sources didn't change keep their identity, so that only what grows is drawn again.
 */
import type { Pending, Run, Transcript } from "./transcript";
import type { Message, ToolMessage } from "./wire";

export interface ToolPart {
  type: "tool";
  callId: string;
  name: string;
  argsText: string;
  result?: string;
  isError: boolean;
}

export type Part =
  | { type: "text"; text: string }
  | { type: "reasoning"; text: string }
  | { type: "activity"; name: string; text: string }
  | ToolPart;

export interface Question {
  role: "user";
  id: string;
  text: string;
  isPending: boolean;
  sources: readonly unknown[];
}

export interface Answer {
  role: "assistant";
  id: string;
  parts: readonly Part[];
  run?: Run;
  sources: readonly unknown[];
}

export type Turn = Question | Answer;

/** Return the turns of `transcript`; those of `before` that stand unchanged are used again. */
export function toTurns(transcript: Transcript, before: readonly Turn[] = []): readonly Turn[] {
  const kept = new Map(before.map((turn) => [turn.id, turn]));
  return [...plan(transcript)].map((fresh) => {
    const old = kept.get(fresh.id);
    return old !== undefined && isSame(old.sources, fresh.sources) ? old : fresh.build();
  });
}

interface Plan {
  id: string;
  sources: readonly unknown[];
  build: () => Turn;
}

function* plan(transcript: Transcript): Generator<Plan> {
  const inline = inlineQuestion(transcript);
  const messages = rewound(transcript.messages, inline?.rewindTo);
  const results = toolResults(messages);
  const shown = new Set<string>();
  let group: Message[] = [];
  let owner: string | undefined;

  function* close(): Generator<Plan> {
    const run = owner === undefined ? undefined : transcript.runs.get(owner);
    if (group.length > 0 || isWorthShowing(run)) yield planAnswer(group, results, run, shown);
    group = [];
  }

  for (const message of messages) {
    const runId = transcript.owners.get(message.id);
    if (runId !== owner) yield* close();
    owner = runId;
    if (message.role === "user") {
      if (group.length > 0) yield* close();
      yield planQuestion(message, false);
    } else if (message.role !== "system" && message.role !== "developer") {
      group.push(message);
    }
  }
  yield* close();
  for (const run of silentRuns(transcript, shown)) yield planAnswer([], results, run, shown);
  if (inline !== undefined) {
    yield planQuestion(inline.message, true);
    yield planAnswer([], results, asked(inline), shown);
  }
}

/** The one question that stands in the conversation already: it waits for nobody. */
function inlineQuestion({ pending, activeRunId }: Transcript): Pending | undefined {
  if (activeRunId !== null) return undefined;
  return pending.find((one) => one.position === undefined && !one.isTakenBack);
}

/** Return the questions that wait for the run under way, in order. */
export function waiting(transcript: Transcript): readonly Pending[] {
  const inline = inlineQuestion(transcript);
  return transcript.pending.filter((one) => one !== inline && !one.isTakenBack);
}

function rewound(messages: readonly Message[], messageId: string | undefined) {
  const place = messages.findIndex(({ id }) => id === messageId);
  return place < 0 ? messages : messages.slice(0, place);
}

const toAsked = new WeakMap<Pending, Run>();

/** Return the run that a question will be, as one that says nothing yet. */
function asked(pending: Pending): Run {
  const run = toAsked.get(pending) ?? { runId: pending.runId, state: "running", base: 0 };
  toAsked.set(pending, run);
  return run;
}

function isWorthShowing(run: Run | undefined): run is Run {
  return run !== undefined && run.state !== "done";
}

/** The newest run, when it left no message at all and yet has something to tell. */
function silentRuns({ runs, messages }: Transcript, shown: ReadonlySet<string>): Run[] {
  const newest = [...runs.values()].at(-1);
  if (newest?.base !== messages.length || shown.has(newest.runId)) return [];
  return isWorthShowing(newest) ? [newest] : [];
}

function planQuestion(message: Message, isPending: boolean): Plan {
  const { id } = message;
  const sources = [message, isPending];
  const build = (): Question => ({ role: "user", id, text: textOf(message), isPending, sources });
  return { id, sources, build };
}

function planAnswer(
  group: readonly Message[],
  results: ReadonlyMap<string, ToolMessage>,
  run: Run | undefined,
  shown: Set<string>,
): Plan {
  const named = run?.runId ?? group[0]?.id ?? "";
  const id = shown.has(named) ? `${named}:${group[0]?.id ?? ""}` : named;
  shown.add(id);
  const sources = [...group, ...group.flatMap((one) => resultsOf(one, results)), run];
  const build = (): Answer => {
    const parts = group.flatMap((message) => toParts(message, results));
    return { role: "assistant", id, parts, sources, ...(run && { run }) };
  };
  return { id, sources, build };
}

function toolResults(messages: readonly Message[]): ReadonlyMap<string, ToolMessage> {
  const results = new Map<string, ToolMessage>();
  for (const message of messages) {
    if (message.role === "tool") results.set(message.toolCallId, message);
  }
  return results;
}

function resultsOf(message: Message, results: ReadonlyMap<string, ToolMessage>): unknown[] {
  const calls = message.role === "assistant" ? (message.toolCalls ?? []) : [];
  return calls.map((call) => results.get(call.id));
}

function toParts(message: Message, results: ReadonlyMap<string, ToolMessage>): Part[] {
  switch (message.role) {
    case "reasoning":
      return [{ type: "reasoning", text: message.content }];
    case "activity": {
      const text = JSON.stringify(message.content, null, 2);
      return [{ type: "activity", name: message.activityType, text }];
    }
    case "assistant": {
      const text = textOf(message);
      const calls = (message.toolCalls ?? []).map((call): ToolPart => {
        const result = results.get(call.id);
        return {
          type: "tool",
          callId: call.id,
          name: call.function.name,
          argsText: call.function.arguments,
          isError: result?.error !== undefined,
          ...(result && { result: textOf(result) || (result.error ?? "") }),
        };
      });
      return text === "" ? calls : [{ type: "text", text }, ...calls];
    }
    default: // a tool's answer stands in the card of its call
      return [];
  }
}

/** Return the words of a message; parts that aren't text are named. */
export function textOf(message: Message): string {
  const content: unknown = message.content;
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) return "";
  return (content as { type: string; text?: string }[])
    .map((part) => (part.type === "text" ? (part.text ?? "") : `[${part.type}]`))
    .join("\n");
}

function isSame(one: readonly unknown[], other: readonly unknown[]): boolean {
  return one.length === other.length && one.every((value, at) => value === other[at]);
}
