import { useEffect, useState } from "react";
import { useActor, useChat } from "../context";
import { isComposing } from "../keys";
import { useStore } from "../store";
import { Connection } from "./Connection";
import { Conversation } from "./Conversation";
import { Icon } from "./icons";
import { Sidebar } from "./Sidebar";

/** The page of a signed-in user: the list of threads, and the open thread. */
export function Shell() {
  const chat = useActor();
  const threadId = useChat((state) => state.threadId);
  const title = useStore(
    chat.threads,
    ({ threads }) => threads.find((thread) => thread.threadId === threadId)?.title,
  );
  const [isOpen, setOpen] = useState(false);
  useEscape(isOpen, () => setOpen(false));
  useEffect(() => {
    document.title = title ? `${title} · Isolane` : "Isolane";
  }, [title]);

  return (
    <div className="shell" data-drawer={isOpen ? "open" : "closed"}>
      <Sidebar isOpen={isOpen} onLeave={() => setOpen(false)} />
      <button
        className="veil"
        aria-label="Close the list"
        tabIndex={-1}
        onClick={() => setOpen(false)}
      />
      <main className="page" inert={isOpen}>
        <header className="bar">
          <button
            className="quiet only-narrow"
            aria-label="Conversations"
            aria-expanded={isOpen}
            onClick={() => setOpen(true)}
          >
            <Icon name="menu" />
          </button>
          <h1 data-testid="title" dir="auto">
            {title || "New conversation"}
          </h1>
          <Connection />
        </header>
        <Conversation key={threadId} />
      </main>
    </div>
  );
}

/** Esc stops the run, unless something nearer took the key: a drawer, an editor, a dialog. */
function useEscape(isDrawerOpen: boolean, closeDrawer: () => void) {
  const chat = useActor();
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      if (event.key !== "Escape" || event.defaultPrevented || isComposing(event)) return;
      if (document.querySelector("dialog[open]") !== null) return;
      if (isDrawerOpen) closeDrawer();
      else chat.stop();
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  });
}
