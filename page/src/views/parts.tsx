/** The other parts of an answer: thoughts, tool calls, activities. */
import { useAuiState } from "@assistant-ui/react";
import type {
  DataMessagePartProps,
  ReasoningMessagePartProps,
  ToolCallMessagePartProps,
} from "@assistant-ui/react";
import type { Answer } from "../turns";
import { Icon } from "./icons";
import { Markdown } from "./Markdown";

function useIsRunning(): boolean {
  const turn = useAuiState((state) => state.message.metadata.custom["turn"]) as Answer;
  return turn.run?.state === "running";
}

export function Thought({ text, status }: ReasoningMessagePartProps) {
  const isThinking = useIsRunning() && status.type === "running";
  return (
    <details className="card thought" data-testid="reasoning">
      <summary>
        <Icon name="thought" />
        <span className={isThinking ? "name shimmer" : "name"}>
          {isThinking ? "Thinking…" : "Thoughts"}
        </span>
        <Icon name="chevron" />
      </summary>
      <div className="inside">
        <Markdown text={text} />
      </div>
    </details>
  );
}

export function ToolCard(props: ToolCallMessagePartProps) {
  const { toolName, argsText, isError } = props;
  const result = props.result as string | undefined;
  const isRunning = useIsRunning();
  const state = toolState(result !== undefined, isError === true, isRunning);
  return (
    <details className="card tool" data-testid="tool-card" data-state={state}>
      <summary>
        <Icon name="tool" />
        <bdi className="name">{toolName}</bdi>
        <span className="brief" dir="ltr">{argsText.replaceAll(/\s+/g, " ")}</span>
        <span className="badge">{BADGES[state]}</span>
        <Icon name="chevron" />
      </summary>
      <div className="inside">
        <h3>Arguments</h3>
        <pre tabIndex={0} dir="ltr" data-testid="tool-args">
          {pretty(argsText)}
        </pre>
        {result !== undefined && (
          <>
            <h3>Result</h3>
            <pre tabIndex={0} dir="ltr" data-testid="tool-result">
              {pretty(result)}
            </pre>
          </>
        )}
      </div>
    </details>
  );
}

const BADGES = { running: "Running", done: "Done", failed: "Failed", open: "No result" } as const;

function toolState(hasResult: boolean, isError: boolean, isRunning: boolean): keyof typeof BADGES {
  if (isError) return "failed";
  if (hasResult) return "done";
  return isRunning ? "running" : "open";
}

export function ActivityCard({ name, data }: DataMessagePartProps<unknown>) {
  return (
    <details className="card" data-testid="activity">
      <summary>
        <Icon name="chevron" />
        <bdi className="name">{name}</bdi>
      </summary>
      <div className="inside">
        <pre tabIndex={0} dir="ltr">{String(data)}</pre>
      </div>
    </details>
  );
}

function pretty(text: string): string {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text; // not JSON, or not all of it yet
  }
}
