import { useActor } from "../context";
import { useStore } from "../store";
import { Icon } from "./icons";

export function NoticeList() {
  const { notices } = useActor();
  const list = useStore(notices, (state) => state.list);
  return (
    <div className="notices" aria-live="polite">
      {list.map(({ id, text, isError, errorId }) => (
        <div
          key={id}
          className="notice"
          data-testid="notice"
          data-error={isError}
          role={isError ? "alert" : undefined}
        >
          <p dir="auto">
            {text} {errorId !== undefined && <code>{errorId}</code>}
          </p>
          <button className="quiet" aria-label="Dismiss" onClick={() => notices.dismiss(id)}>
            <Icon name="close" />
          </button>
        </div>
      ))}
    </div>
  );
}
