import { MessagePrimitive, useAuiState } from "@assistant-ui/react";
import { useActor, useChat } from "../context";
import type { Run } from "../transcript";
import type { Answer } from "../turns";
import { Ask } from "./Ask";
import { CopyButton } from "./CopyButton";
import { Icon } from "./icons";
import { Markdown } from "./Markdown";
import { ActivityCard, Thought, ToolCard } from "./parts";

export function AnswerView() {
  const turn = useAuiState((state) => state.message.metadata.custom["turn"]) as Answer;
  const isLast = useAuiState((state) => state.message.isLast);
  const state = turn.run?.state ?? "done";
  return (
    <MessagePrimitive.Root className="answer" data-testid="answer" data-state={state}>
      <MessagePrimitive.Parts components={PARTS} />
      {turn.run !== undefined && <End run={turn.run} isLast={isLast} />}
      {state === "running" ? <Working turn={turn} /> : <Acts turn={turn} isLast={isLast} />}
    </MessagePrimitive.Root>
  );
}

const PARTS = {
  Text: ({ text }: { text: string }) => <Markdown text={text} />,
  Reasoning: Thought,
  tools: { Fallback: ToolCard },
  data: { Fallback: ActivityCard },
};

/** Three dots while nothing is being written. */
function Working({ turn }: { turn: Answer }) {
  const isStopping = useChat((state) => state.stoppingId === turn.run?.runId);
  const isWriting = turn.parts.at(-1)?.type === "text";
  if (isStopping) return <p className="mark">Stopping…</p>;
  if (isWriting) return null;
  return (
    <p className="working" role="img" aria-label="Working">
      <i /> <i /> <i />
    </p>
  );
}

/** The end of a run that didn't succeed. */
function End({ run, isLast }: { run: Run; isLast: boolean }) {
  if (run.state === "stopped") {
    return (
      <p className="mark" data-testid="stopped">
        <Icon name="stop" /> Stopped
      </p>
    );
  }
  if (run.state === "waiting" && isLast) return <Ask interrupts={run.interrupts ?? []} />;
  if (run.error === undefined) return null;
  return (
    <div className="failure" role="alert" data-testid="run-error">
      <Icon name="warn" />
      <div>
        <p dir="auto">{run.error.message}</p>
        <p className="fine">
          {run.error.agentCode ?? run.error.code}
          {run.error.errorId !== undefined && (
            <>
              {" "}
              · <code>{run.error.errorId}</code>
            </>
          )}
        </p>
      </div>
    </div>
  );
}

function Acts({ turn, isLast }: { turn: Answer; isLast: boolean }) {
  const chat = useActor();
  const text = turn.parts.flatMap((part) => (part.type === "text" ? [part.text] : [])).join("\n\n");
  if (text === "" && !isLast) return null;
  return (
    <div className="acts">
      {text !== "" && <CopyButton text={text} label="Copy the answer" />}
      {isLast && (
        <button
          className="quiet"
          aria-label="Try again"
          title="Try again"
          onClick={() => chat.retry()}
        >
          <Icon name="retry" />
        </button>
      )}
    </div>
  );
}
