import { useEffect, useRef } from "react";
import { useActor, useChat } from "../context";
import { toName } from "../ids";
import { useStore } from "../store";
import type { ThreadSummary } from "../wire";
import { DevicesButton } from "./Devices";
import { Icon, Logo } from "./icons";
import { ThemeButton } from "./ThemeButton";
import { ThreadItem } from "./ThreadItem";

const DAY_MS = 86_400_000;

/** The user's threads, and the user. On a narrow screen it is a drawer. */
export function Sidebar({ isOpen, onLeave }: { isOpen: boolean; onLeave: () => void }) {
  const chat = useActor();
  const { threads, nextCursor, isLoaded } = useStore(chat.threads, (state) => state);
  const current = useChat((state) => state.threadId);
  const account = useChat((state) => state.account);
  const start = useRef<HTMLAnchorElement>(null);
  useEffect(() => {
    if (isOpen) start.current?.focus();
  }, [isOpen]);

  const begin = () => {
    onLeave();
    requestAnimationFrame(() => document.getElementById("question")?.focus());
  };

  return (
    <nav className="sidebar" aria-label="Conversations">
      <div className="brand">
        <Logo />
        <span>Isolane</span>
        <button className="quiet only-narrow" aria-label="Close the list" onClick={onLeave}>
          <Icon name="close" />
        </button>
      </div>
      <a className="begin" href="#" ref={start} onClick={begin} data-testid="new-thread">
        <Icon name="add" /> New conversation
      </a>
      <div className="threads" data-testid="threads">
        {isLoaded && threads.length === 0 && (
          <p className="hint">Your conversations will be here.</p>
        )}
        {byDay(threads).map(([day, ofDay]) => (
          <section key={day} aria-label={day}>
            <h2>{day}</h2>
            <ul>
              {ofDay.map((thread) => (
                <ThreadItem
                  key={thread.threadId}
                  thread={thread}
                  isCurrent={thread.threadId === current}
                  onOpen={onLeave}
                />
              ))}
            </ul>
          </section>
        ))}
        {nextCursor !== null && (
          <button className="more" onClick={() => void chat.threads.loadMore()}>
            Show older
          </button>
        )}
      </div>
      <div className="user">
        <span className="name" dir="auto" data-testid="user" title={account?.userId}>
          {account?.username ?? (account && toName(account.userId))}
        </span>
        <ThemeButton />
        <DevicesButton />
        <button
          className="quiet"
          aria-label="Sign out"
          title="Sign out"
          onClick={() => void chat.signOut()}
        >
          <Icon name="signout" />
        </button>
      </div>
    </nav>
  );
}

function byDay(threads: readonly ThreadSummary[]): [string, ThreadSummary[]][] {
  const today = new Date().setHours(0, 0, 0, 0);
  const dayOf = ({ updatedAt }: ThreadSummary) => {
    if (updatedAt >= today) return "Today";
    return updatedAt >= today - DAY_MS ? "Yesterday" : "Earlier";
  };
  return [...Map.groupBy(threads, dayOf)];
}
