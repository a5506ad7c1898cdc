import { useEffect, useState } from "react";
import type { StateDetails } from "@isolane/client";
import { useChat } from "../context";

const WORDS = {
  connected: "Connected",
  connecting: "Connecting…",
  reconnecting: "Reconnecting…",
  offline: "Offline",
} as const;

/** The state of the connection, and the number of entries after a reconnect. */
export function Connection() {
  const link = useChat((state) => state.link);
  const details = useChat((state) => state.details);
  const isOnline = useOnline();
  const wasOpen = useWasTrue(link === "open");
  const state = toState(link, isOnline, wasOpen);
  const news = newsOf(
    useChat((now) => now.caughtUp),
    details,
  );

  return (
    <p className="connection" role="status" data-testid="connection" data-state={state}>
      <span className="dot" aria-hidden="true" />
      <span className="state">{WORDS[state]}</span>
      {state === "connected" && news !== null && <span className="news">{news}</span>}
    </p>
  );
}

function toState(link: string, isOnline: boolean, wasOpen: boolean): keyof typeof WORDS {
  if (link === "open") return "connected";
  if (link === "closed" || !isOnline) return "offline";
  return wasOpen || link === "waiting" ? "reconnecting" : "connecting";
}

function newsOf(caughtUp: number | null, { drainingUntil }: StateDetails): string | null {
  if (drainingUntil !== undefined) return "the server restarts soon";
  if (caughtUp === null || caughtUp === 0) return null;
  return `caught up ${caughtUp} event${caughtUp === 1 ? "" : "s"}`;
}

function useOnline(): boolean {
  const [isOnline, setOnline] = useState(navigator.onLine);
  useEffect(() => {
    const look = () => setOnline(navigator.onLine);
    addEventListener("online", look);
    addEventListener("offline", look);
    return () => {
      removeEventListener("online", look);
      removeEventListener("offline", look);
    };
  }, []);
  return isOnline;
}

/** Return whether `value` was ever true. */
function useWasTrue(value: boolean): boolean {
  const [was, setWas] = useState(value);
  if (value && !was) setWas(true);
  return was || value;
}
