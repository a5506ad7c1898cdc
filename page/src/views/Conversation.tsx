import {
  AssistantRuntimeProvider,
  ThreadPrimitive,
  useExternalStoreRuntime,
} from "@assistant-ui/react";
import type { AppendMessage, ThreadMessageLike } from "@assistant-ui/react";
import { useMemo, useState } from "react";
import { useActor, useChat } from "../context";
import type { Part, Turn } from "../turns";
import { AnswerView } from "./Answer";
import { AskedView } from "./Ask";
import { Announcer } from "./Announcer";
import { Composer } from "./Composer";
import { Icon, Logo } from "./icons";
import { NoticeList } from "./NoticeList";
import { QuestionView } from "./Question";
import { Queue } from "./Queue";

const TURNS_AT_ONCE = 40;

/** One thread. assistant-ui draws what our own fold says; it never runs anything itself. */
export function Conversation() {
  const chat = useActor();
  const all = useChat((state) => state.turns);
  const [most, setMost] = useState(TURNS_AT_ONCE);
  const turns = useMemo(() => all.slice(-most), [all, most]);
  const phase = useChat((state) => state.phase);
  const isRunning = turns.at(-1)?.role === "assistant" && isAnswering(turns.at(-1));
  const adapter = useMemo(
    () => ({
      messages: turns,
      convertMessage: toMessage,
      isRunning,
      isLoading: phase === "loading",
      onNew: (message: AppendMessage) => {
        const text = message.content
          .map((part) => (part.type === "text" ? part.text : ""))
          .join("");
        chat.send(text);
        return Promise.resolve();
      },
    }),
    [chat, turns, phase, isRunning],
  );
  const runtime = useExternalStoreRuntime(adapter);

  return (
    <AssistantRuntimeProvider runtime={runtime}>
      <ThreadPrimitive.Root className="conversation" data-testid="conversation" data-phase={phase}>
        <ThreadPrimitive.Viewport className="viewport" role="log" aria-live="off" tabIndex={-1}>
          <div className="column">
            {turns.length === 0 && <Nothing />}
            {all.length > most && (
              <button className="plain earlier" onClick={() => setMost(most + TURNS_AT_ONCE)}>
                Show earlier messages
              </button>
            )}
            <ThreadPrimitive.Messages>{toView}</ThreadPrimitive.Messages>
          </div>
        </ThreadPrimitive.Viewport>
        <div className="foot column">
          <ThreadPrimitive.ScrollToBottom
            className="down"
            aria-label="To the newest"
            behavior="instant"
          >
            <Icon name="down" />
          </ThreadPrimitive.ScrollToBottom>
          <NoticeList />
          <Queue />
          <Composer />
        </div>
        <Announcer />
      </ThreadPrimitive.Root>
    </AssistantRuntimeProvider>
  );
}

function toView({ message }: { message: { role: string; metadata: { custom: object } } }) {
  const { turn } = message.metadata.custom as { turn: Turn };
  if (turn.role === "asked") return <AskedView />;
  return turn.role === "user" ? <QuestionView /> : <AnswerView />;
}

function isAnswering(turn: Turn | undefined): boolean {
  return turn?.role === "assistant" && turn.run?.state === "running";
}

function toMessage(turn: Turn): ThreadMessageLike {
  const metadata = { custom: { turn } };
  if (turn.role === "user") return { role: "user", id: turn.id, content: turn.text, metadata };
  if (turn.role === "asked") return { role: "assistant", id: turn.id, content: [], metadata };
  return {
    role: "assistant",
    id: turn.id,
    content: turn.parts.map(toContent),
    status: isAnswering(turn) ? { type: "running" } : { type: "complete", reason: "unknown" },
    metadata,
  };
}

function toContent(part: Part): Exclude<ThreadMessageLike["content"], string>[number] {
  switch (part.type) {
    case "text":
    case "reasoning":
      return part;
    case "activity":
      return { type: "data", name: part.name, data: part.text };
    case "tool": {
      const { callId, name, argsText, result, isError } = part;
      return {
        type: "tool-call",
        toolCallId: callId,
        toolName: name,
        argsText,
        args: {},
        result,
        isError,
      };
    }
  }
}

function Nothing() {
  const phase = useChat((state) => state.phase);
  const chat = useActor();
  switch (phase) {
    case "loading":
      return <div className="skeleton" role="status" aria-label="Loading" />;
    case "missing":
      return (
        <div className="nothing" data-testid="missing">
          <h2>There is no such conversation</h2>
          <p>It may have been deleted.</p>
          <a className="plain" href="#">
            Begin a new one
          </a>
        </div>
      );
    case "failed":
      return (
        <div className="nothing" data-testid="failed">
          <h2>The conversation couldn’t be loaded</h2>
          <button className="plain" onClick={() => chat.route()}>
            Try again
          </button>
        </div>
      );
    default:
      return (
        <div className="nothing" data-testid="empty">
          <Logo />
          <h2>What shall we work on?</h2>
          <p>Answers go on while you are away, on every device you are signed in on.</p>
        </div>
      );
  }
}
