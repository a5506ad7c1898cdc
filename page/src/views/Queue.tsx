import { useMemo } from "react";
import { useActor, useChat } from "../context";
import { textOf, waiting } from "../turns";
import { Icon } from "./icons";

/** The questions that wait for the active answer. */
export function Queue() {
  const chat = useActor();
  const transcript = useChat((state) => state.transcript);
  const list = useMemo(() => waiting(transcript), [transcript]);
  if (list.length === 0) return null;
  return (
    <ol className="queue" aria-label="Waiting questions" data-testid="queue">
      {list.map(({ runId, message, position }) => (
        <li key={runId} data-testid="queued" data-position={position}>
          <span className="badge">{placeOf(position)}</span>
          <span className="brief" dir="auto">{textOf(message)}</span>
          <button
            className="quiet"
            aria-label="Take it back"
            title="Take it back"
            onClick={() => chat.cancel(runId)}
          >
            <Icon name="close" />
          </button>
        </li>
      ))}
    </ol>
  );
}

function placeOf(position: number | undefined): string {
  if (position === undefined) return "Sending…";
  return position === 1 ? "Next" : `Waiting, place ${position}`;
}
