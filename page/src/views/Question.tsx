import { MessagePrimitive, useAuiState } from "@assistant-ui/react";
import { useState } from "react";
import { useActor, useChat } from "../context";
import type { Question } from "../turns";
import { CopyButton } from "./CopyButton";
import { GrowingText } from "./GrowingText";
import { Icon } from "./icons";

export function QuestionView() {
  const turn = useAuiState((state) => state.message.metadata.custom["turn"]) as Question;
  const isBusy = useChat((state) => state.transcript.activeRunId !== null);
  const [isEditing, setEditing] = useState(false);
  if (isEditing) return <Editor turn={turn} onDone={() => setEditing(false)} />;
  return (
    <MessagePrimitive.Root
      className="question"
      data-testid="question"
      data-pending={turn.isPending}
    >
      <div className="bubble">{turn.text}</div>
      {!turn.isPending && (
        <div className="acts">
          <CopyButton text={turn.text} />
          {!isBusy && (
            <button
              className="quiet"
              aria-label="Edit"
              title="Edit"
              onClick={() => setEditing(true)}
            >
              <Icon name="pen" />
            </button>
          )}
        </div>
      )}
    </MessagePrimitive.Root>
  );
}

function Editor({ turn, onDone }: { turn: Question; onDone: () => void }) {
  const chat = useActor();
  const [text, setText] = useState(turn.text);
  const save = () => {
    if (text.trim() === "") return;
    onDone();
    chat.edit(turn.id, text.trim());
  };
  return (
    <MessagePrimitive.Root className="question" data-testid="editor">
      <form
        className="editor"
        onSubmit={(event) => {
          event.preventDefault();
          save();
        }}
      >
        <GrowingText
          label="Edit the question"
          value={text}
          onChange={setText}
          onEnter={save}
          onEscape={onDone}
        />
        <div className="acts">
          <span className="hint">What follows it is replaced.</span>
          <button type="button" className="plain" onClick={onDone}>
            Cancel
          </button>
          <button className="primary">Ask again</button>
        </div>
      </form>
    </MessagePrimitive.Root>
  );
}
