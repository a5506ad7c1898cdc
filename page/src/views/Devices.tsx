import { useEffect, useRef, useState } from "react";
import { useActor } from "../context";
import { dateWords, nameOf, sinceWords } from "../devices";
import { SessionList } from "../sessions";
import { useStore } from "../store";
import type { Session } from "../wire";
import { Icon } from "./icons";

/** Opens the list of the places where the user is signed in. */
export function DevicesButton() {
  const [isOpen, setOpen] = useState(false);
  return (
    <>
      <button
        className="quiet"
        aria-label="Devices"
        aria-haspopup="dialog"
        title="Devices"
        onClick={() => setOpen(true)}
      >
        <Icon name="devices" />
      </button>
      {isOpen && <DevicesDialog onClose={() => setOpen(false)} />}
    </>
  );
}

function DevicesDialog({ onClose }: { onClose: () => void }) {
  const chat = useActor();
  const dialog = useRef<HTMLDialogElement>(null);
  const [isSure, setSure] = useState(false);
  const fail = (problem: unknown) => {
    onClose(); // what the page tells stands behind the dialog
    chat.fail(problem);
  };
  const [list] = useState(() => new SessionList(fail));
  const { sessions, loadedAt, news } = useStore(list, (state) => state);
  useEffect(() => {
    dialog.current?.showModal();
    dialog.current?.focus(); // not on what ends everything
    void list.load();
  }, [list]);
  const end = (session: Session) => {
    dialog.current?.focus(); // the button that has the focus goes
    void list.end(session);
  };
  return (
    <dialog
      ref={dialog}
      className="devices"
      aria-labelledby="devices"
      tabIndex={-1}
      data-testid="devices"
      onClose={onClose}
    >
      <h2 id="devices">Devices</h2>
      <p>Where you are signed in.</p>
      <ul aria-busy={loadedAt === 0}>
        {sessions.map((session) => (
          <Device key={session.sessionId} session={session} now={loadedAt} onEnd={end} />
        ))}
      </ul>
      <p className="unseen" role="status">
        {news}
      </p>
      <form method="dialog">
        <button type="button" className="plain" onClick={() => setSure(true)}>
          Sign out everywhere
        </button>
        <button className="plain">Close</button>
      </form>
      {isSure && <EverywhereDialog onClose={() => setSure(false)} />}
    </dialog>
  );
}

interface DeviceProps {
  session: Session;
  now: number;
  onEnd: (session: Session) => void;
}

function Device({ session, now, onEnd }: DeviceProps) {
  const chat = useActor();
  const { device, createdAt, lastSeenAt, isCurrent } = session;
  const name = nameOf(device);
  return (
    <li data-testid="device" data-current={isCurrent}>
      <div>
        <p className="what" title={device}>
          {name} {isCurrent && <span className="badge">This device</span>}
        </p>
        <p className="fine">
          Since {dateWords(createdAt)} · last seen {sinceWords(lastSeenAt, now)}
        </p>
      </div>
      <button
        className="plain"
        aria-label={isCurrent ? "Sign out this device" : `Sign out ${name}`}
        onClick={() => (isCurrent ? void chat.signOut() : onEnd(session))}
      >
        Sign out
      </button>
    </li>
  );
}

function EverywhereDialog({ onClose }: { onClose: () => void }) {
  const chat = useActor();
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog
      ref={dialog}
      aria-labelledby="everywhere"
      data-testid="everywhere-dialog"
      onClose={(event) => {
        event.stopPropagation(); // React lets it rise to the dialog below, which stays
        onClose();
      }}
    >
      <h2 id="everywhere">Sign out everywhere?</h2>
      <p>
        Every device is signed out, this one too, and tokens that were made for your programs end.
      </p>
      <form method="dialog">
        <button className="plain">Keep</button>
        <button className="danger" onClick={() => void chat.signOutEverywhere()}>
          Sign out everywhere
        </button>
      </form>
    </dialog>
  );
}
