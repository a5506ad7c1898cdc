import { useEffect, useRef, useState } from "react";
import { useChat } from "../context";
import type { Answer, Turn } from "../turns";

const WORDS = {
  running: "The answer begins.",
  done: "The answer is complete.",
  stopped: "The answer was stopped.",
  failed: "The answer failed.",
  waiting: "The agent asks for your answer.",
} as const;

/** Tells screen readers that an answer begins or ends; its words are read in the page itself. */
export function Announcer() {
  const state = useChat(({ turns }) => newest(turns)?.run?.state);
  const [words, setWords] = useState("");
  const before = useRef(state);
  useEffect(() => {
    if (state !== undefined && state !== before.current) setWords(WORDS[state]);
    before.current = state;
  }, [state]);
  return (
    <p className="unseen" aria-live="polite" data-testid="announcer">
      {words}
    </p>
  );
}

function newest(turns: readonly Turn[]): Answer | undefined {
  return turns.findLast((turn): turn is Answer => turn.role === "assistant");
}
