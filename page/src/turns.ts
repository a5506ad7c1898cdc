/**
 * The turns of a conversation: what the thread view shows for a transcript. Pure.
 *
 * A question is a turn; all that one run said, thought and called is one turn. Turns whose
 * sources didn't change keep their identity, so that only what grows is drawn again.
 */
import { isAbout } from "./asked";
import type { Asked } from "./asked";
import { openInterrupts } from "./transcript";
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
  /** The text of the question. */
  text: string;
  /** The kinds of its other parts, such as `image`. */
  attachments: readonly string[];
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

/** A question of an agent, and its answer. */
export interface AskedTurn {
  role: "asked";
  id: string;
  asked: Asked;
  sources: readonly unknown[];
}

export type Turn = Question | Answer | AskedTurn;

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
  const settled = askedByPlace(transcript);
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
    const asked = settled.get(message.id);
    if (asked === undefined) continue;
    yield* close();
    owner = undefined;
    yield* asked.map(planAsked);
  }
  yield* close();
  for (const run of silentRuns(transcript, shown)) yield planAnswer([], results, run, shown);
  if (inline !== undefined) {
    yield planQuestion(inline.message, true);
    yield planAnswer([], results, asked(inline), shown);
  }
}

/** The one question that is in the conversation already and doesn't wait. */
function inlineQuestion({ pending, activeRunId }: Transcript): Pending | undefined {
  if (activeRunId !== null) return undefined;
  return pending.find((one) => one.position === undefined && !one.isTakenBack);
}

/** Return the questions that wait for the active run, in order. */
export function waiting(transcript: Transcript): readonly Pending[] {
  const inline = inlineQuestion(transcript);
  return transcript.pending.filter((one) => one !== inline && !one.isTakenBack);
}

function rewound(messages: readonly Message[], messageId: string | undefined) {
  const place = messages.findIndex(({ id }) => id === messageId);
  return place < 0 ? messages : messages.slice(0, place);
}

const toAsked = new WeakMap<Pending, Run>();

/** Return an empty run for a question whose run has not begun. */
function asked(pending: Pending): Run {
  const run = toAsked.get(pending) ?? { runId: pending.runId, state: "running", base: 0 };
  toAsked.set(pending, run);
  return run;
}

function isWorthShowing(run: Run | undefined): run is Run {
  return run !== undefined && run.state !== "done";
}

/** The newest run, when it has no message but an end to show. */
function silentRuns({ runs, messages }: Transcript, shown: ReadonlySet<string>): Run[] {
  const newest = [...runs.values()].at(-1);
  if (newest?.base !== messages.length || shown.has(newest.runId)) return [];
  return isWorthShowing(newest) ? [newest] : [];
}

/** Return the settled questions by the message that they follow. */
function askedByPlace(transcript: Transcript): ReadonlyMap<string, Asked[]> {
  const open = openInterrupts(transcript.runs);
  const settled = transcript.asked.filter((one) => !isAbout(one, open));
  return Map.groupBy(settled, ({ afterId }) => afterId);
}

function planAsked(asked: Asked): Plan {
  const id = `asked:${asked.ids[0] ?? ""}`;
  const sources = [asked];
  return { id, sources, build: () => ({ role: "asked", id, asked, sources }) };
}

function planQuestion(message: Message, isPending: boolean): Plan {
  const { id } = message;
  const sources = [message, isPending];
  const build = (): Question => ({
    role: "user",
    id,
    text: wordsOf(message),
    attachments: attachmentsOf(message),
    isPending,
    sources,
  });
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

/** A part of a message's content; those that aren't text are pictures and the like. */
interface ContentPart {
  type: string;
  text?: string;
}

function partsOf(content: unknown): readonly ContentPart[] {
  if (typeof content === "string") return [{ type: "text", text: content }];
  return Array.isArray(content) ? (content as ContentPart[]) : [];
}

/** Return the words of a message; parts that aren't text are named. */
export function textOf(message: Message): string {
  return partsOf(message.content)
    .map((part) => (part.type === "text" ? (part.text ?? "") : `[${part.type}]`))
    .join("\n");
}

/** Return only the text of a message. */
export function wordsOf(message: Message): string {
  const texts = partsOf(message.content).filter(({ type }) => type === "text");
  return texts.map(({ text }) => text ?? "").join("\n");
}

/** Return the kinds of a message's other parts. */
function attachmentsOf(message: Message): string[] {
  return partsOf(message.content).flatMap(({ type }) => (type === "text" ? [] : [type]));
}

/** Return `content` with another text; the other parts stay in their order. */
export function reword(content: unknown, words: string): string | readonly ContentPart[] {
  const parts = partsOf(content);
  if (parts.every(({ type }) => type === "text")) return words;
  const place = parts.findIndex(({ type }) => type === "text");
  const isText = (part: ContentPart) => part.type === "text";
  const before = place < 0 ? [] : parts.slice(0, place);
  const after = (place < 0 ? parts : parts.slice(place)).filter((part) => !isText(part));
  return [...before, ...(words === "" ? [] : [{ type: "text", text: words }]), ...after];
}

function isSame(one: readonly unknown[], other: readonly unknown[]): boolean {
  return one.length === other.length && one.every((value, at) => value === other[at]);
}
