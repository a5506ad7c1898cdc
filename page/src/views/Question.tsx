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
      <div className="bubble" dir="auto">
        {turn.text}
        <Attachments kinds={turn.attachments} />
      </div>
      {!turn.isPending && (
        <div className="acts">
          {turn.text !== "" && <CopyButton text={turn.text} />}
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

/** What a question has beside its words. It stays when those are edited. */
function Attachments({ kinds }: { kinds: readonly string[] }) {
  if (kinds.length === 0) return null;
  return (
    <span className="attachments">
      {kinds.map((kind, place) => (
        <span key={place} className="badge" dir="ltr" data-testid="attachment">
          {NAMES[kind] ?? kind}
        </span>
      ))}
    </span>
  );
}

const NAMES: Readonly<Record<string, string>> = {
  image: "Picture",
  audio: "Sound",
  video: "Video",
  document: "Document",
  file: "File",
};

function Editor({ turn, onDone }: { turn: Question; onDone: () => void }) {
  const chat = useActor();
  const [text, setText] = useState(turn.text);
  const save = () => {
    if (text.trim() === "" && turn.attachments.length === 0) return;
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
        <Attachments kinds={turn.attachments} />
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
