import { useEffect, useRef, useState } from "react";
import type { KeyboardEvent } from "react";
import { useActor } from "../context";
import { isComposing } from "../keys";
import type { ThreadSummary } from "../wire";
import { Icon } from "./icons";

interface Props {
  thread: ThreadSummary;
  isCurrent: boolean;
  onOpen: () => void;
}

export function ThreadItem({ thread, isCurrent, onOpen }: Props) {
  const [isRenaming, setRenaming] = useState(false);
  const [isDeleting, setDeleting] = useState(false);
  const title = thread.title || "Untitled";
  const isRunning = thread.activeRunId !== null;

  return (
    <li data-testid="thread" data-thread={thread.threadId} data-running={isRunning}>
      {isRenaming ? (
        <Rename thread={thread} onDone={() => setRenaming(false)} />
      ) : (
        <>
          <a
            href={`#${thread.threadId}`}
            aria-current={isCurrent ? "page" : undefined}
            onClick={onOpen}
          >
            <span className="title" dir="auto">{title}</span>
            {isRunning && <span className="running" role="img" aria-label="running" />}
          </a>
          <span className="acts">
            <button
              className="quiet"
              aria-label={`Rename ${title}`}
              title="Rename"
              onClick={() => setRenaming(true)}
            >
              <Icon name="pen" />
            </button>
            <button
              className="quiet"
              aria-label={`Delete ${title}`}
              title="Delete"
              onClick={() => setDeleting(true)}
            >
              <Icon name="trash" />
            </button>
          </span>
        </>
      )}
      {isDeleting && (
        <DeleteDialog thread={thread} title={title} onClose={() => setDeleting(false)} />
      )}
    </li>
  );
}

function Rename({ thread, onDone }: { thread: ThreadSummary; onDone: () => void }) {
  const chat = useActor();
  const [title, setTitle] = useState(thread.title);
  const save = () => {
    const wanted = title.trim();
    if (wanted !== "" && wanted !== thread.title) void chat.threads.rename(thread.threadId, wanted);
    onDone();
  };
  const onKey = (event: KeyboardEvent) => {
    if (isComposing(event.nativeEvent)) return;
    if (event.key === "Enter") save();
    if (event.key !== "Escape") return;
    event.preventDefault();
    onDone();
  };
  return (
    <input
      className="rename"
      aria-label="New title"
      dir="auto"
      value={title}
      maxLength={200}
      autoFocus
      onFocus={(event) => event.target.select()}
      onChange={(event) => setTitle(event.target.value)}
      onBlur={save}
      onKeyDown={onKey}
    />
  );
}

interface DialogProps {
  thread: ThreadSummary;
  title: string;
  onClose: () => void;
}

function DeleteDialog({ thread, title, onClose }: DialogProps) {
  const chat = useActor();
  const dialog = useRef<HTMLDialogElement>(null);
  const name = `delete-${thread.threadId}`;
  useEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog ref={dialog} aria-labelledby={name} data-testid="delete-dialog" onClose={onClose}>
      <h2 id={name}>Delete this conversation?</h2>
      <p>
        “<bdi>{title}</bdi>” and all its messages go for good.
        {thread.activeRunId !== null && " Its answer under way is stopped."}
      </p>
      <form method="dialog">
        <button className="plain">Keep</button>
        <button className="danger" onClick={() => void chat.threads.remove(thread.threadId)}>
          Delete
        </button>
      </form>
    </dialog>
  );
}
