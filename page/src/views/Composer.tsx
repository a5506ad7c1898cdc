import { useActor, useChat } from "../context";
import { draftOf } from "../drafts";
import { useStore } from "../store";
import { GrowingText } from "./GrowingText";
import { Icon } from "./icons";

export function Composer() {
  const chat = useActor();
  const phase = useChat((state) => state.phase);
  const name = useChat(draftOf);
  const text = useStore(chat.drafts, ({ texts }) => texts.get(name) ?? "");
  const stoppingId = useChat((state) => state.stoppingId);
  const isRunning = useChat(({ turns }) => {
    const last = turns.at(-1);
    return last?.role === "assistant" && last.run?.state === "running";
  });
  const isDisabled = phase !== "new" && phase !== "ready";

  const send = () => {
    if (text.trim() === "" || isDisabled) return;
    chat.send(text.trim());
  };

  return (
    <form
      className="composer"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      <div className="field">
        <GrowingText
          id="question"
          label="Your question"
          placeholder={isRunning ? "Ask next; it waits its turn" : "Ask anything"}
          value={text}
          onChange={(words) => chat.write(words)}
          onEnter={send}
          isDisabled={isDisabled}
        />
        {isRunning && (
          <button
            type="button"
            className="round stop"
            aria-label="Stop"
            title="Stop (Esc)"
            data-testid="stop"
            disabled={stoppingId !== null}
            onClick={() => chat.stop()}
          >
            <Icon name="stop" />
          </button>
        )}
        {(!isRunning || text.trim() !== "") && (
          <button
            className="round send"
            aria-label="Send"
            title="Send (Enter)"
            data-testid="send"
            disabled={text.trim() === "" || isDisabled}
          >
            <Icon name="send" />
          </button>
        )}
      </div>
      <p className="keys" aria-hidden="true">
        <kbd>Enter</kbd> sends, <kbd>Shift</kbd>+<kbd>Enter</kbd> begins a new line, <kbd>Esc</kbd>{" "}
        stops
      </p>
    </form>
  );
}
