/** A question of an agent, and its answer. */
import { MessagePrimitive, useAuiState } from "@assistant-ui/react";
import { useEffect, useRef, useState } from "react";
import type { KeyboardEvent } from "react";
import type { Reply } from "../asked";
import { useActor } from "../context";
import { isComposing } from "../keys";
import type { AskedTurn } from "../turns";
import type { Interrupt } from "../wire";
import { Icon } from "./icons";

/** Time for which a new question ignores taps, because a double tap may hit its yes. */
const ARMED_AFTER_MS = 800;

/** Asks. Nothing here has the focus by itself, and an Enter without words says nothing. */
export function Ask({ interrupts }: { interrupts: readonly Interrupt[] }) {
  const chat = useActor();
  const [words, setWords] = useState("");
  const [isSent, setSent] = useState(false);
  const isGiven = useRef(false); // two clicks may come before the first is drawn
  const isArmed = useArmed();
  const isDisabled = !isArmed || isSent;
  const hasWords = words.trim() !== "";

  const reply = async (given: Reply) => {
    if (isDisabled || isGiven.current) return;
    isGiven.current = true;
    setSent(true);
    isGiven.current = await chat.answer(interrupts, given);
    setSent(isGiven.current);
  };
  const onKey = (event: KeyboardEvent) => {
    if (event.key !== "Enter" || isComposing(event.nativeEvent)) return;
    if (hasWords && !event.repeat) void reply({ kind: "answered", words: words.trim() });
  };

  return (
    <div className="ask" role="group" aria-label="The agent asks" data-testid="interrupt">
      {interrupts.map((interrupt) => (
        <p key={interrupt.id} dir="auto">
          {interrupt.message ?? interrupt.reason}
        </p>
      ))}
      <input
        aria-label="Your answer"
        placeholder="Approve or decline, or answer in words"
        dir="auto"
        value={words}
        onChange={(event) => setWords(event.target.value)}
        onKeyDown={onKey}
      />
      <div className="acts">
        <button
          type="button"
          className="plain"
          disabled={isDisabled}
          onClick={() => void reply({ kind: "declined" })}
        >
          Decline
        </button>
        {hasWords ? (
          <button
            type="button"
            className="primary"
            disabled={isDisabled}
            onClick={() => void reply({ kind: "answered", words: words.trim() })}
          >
            Go on
          </button>
        ) : (
          <button
            type="button"
            className="primary"
            disabled={isDisabled}
            onClick={() => void reply({ kind: "approved" })}
          >
            {interrupts.length > 1 ? "Approve all" : "Approve"}
          </button>
        )}
      </div>
    </div>
  );
}

function useArmed(): boolean {
  const [isArmed, setArmed] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => setArmed(true), ARMED_AFTER_MS);
    return () => clearTimeout(timer);
  }, []);
  return isArmed;
}

const WORDS: Readonly<Record<Reply["kind"], string>> = {
  approved: "You approved.",
  declined: "You declined.",
  answered: "You answered: ",
  left: "Left without an answer.",
  elsewhere: "Answered on another device.",
};

/** A settled question and its answer. */
export function AskedView() {
  const turn = useAuiState((state) => state.message.metadata.custom["turn"]) as AskedTurn;
  const { texts, reply } = turn.asked;
  return (
    <MessagePrimitive.Root className="answer" data-testid="asked" data-reply={reply.kind}>
      <div className="ask settled">
        {texts.map((text, place) => (
          <p key={place} dir="auto">
            {text}
          </p>
        ))}
        <p className="mark">
          <Icon name={reply.kind === "declined" || reply.kind === "left" ? "close" : "check"} />
          <span>
            {WORDS[reply.kind]}
            {reply.words !== undefined && <bdi>{reply.words}</bdi>}
          </span>
        </p>
      </div>
    </MessagePrimitive.Root>
  );
}
