import {
  EventType,
  HttpAgent as PublishedHttpAgent,
  runHttpRequest,
  transformHttpEventStream,
} from "@ag-ui/client";
import type {
  AgentStateMutation,
  AgentSubscriber,
  BaseEvent,
  Message,
  RunAgentInput,
} from "@ag-ui/client";
import type { Observable } from "rxjs";
import { concatMap, defer, finalize, from, mergeMap, of, takeWhile, tap } from "rxjs";
import { beforeRun, rewindTo } from "./rewind.js";

interface Thread {
  readonly messages: Message[];
  readonly before: string | null;
  readonly head: string;
  readonly activeRunId: string | null;
  readonly state: unknown;
}

const ENDS: readonly string[] = [EventType.RUN_FINISHED, EventType.RUN_ERROR];

/** HttpAgent for a gateway's `/agui`. It can rejoin its thread, and its stop really stops. */
export class HttpAgent extends PublishedHttpAgent {
  // No `#names`, because a clone is made without its constructor and would lack them.
  private runId?: string | undefined;
  private standing?: readonly Message[] | undefined;

  /** Ask. Messages that were removed from the list are taken back on the server too. */
  protected override requestInit(input: RunAgentInput): RequestInit {
    this.runId = input.runId;
    const target = rewindTo(input.messages, this.standing ?? []);
    const given = input.forwardedProps as Record<string, unknown> | undefined;
    const forwardedProps = target === undefined ? given : { rewindTo: target, ...given };
    return super.requestInit({ ...input, forwardedProps });
  }

  /** Replay the thread and join the active answer; `connectAgent()` calls this. */
  override connect({ threadId, runId }: RunAgentInput): Observable<BaseEvent> {
    this.abortController = new AbortController();
    this.runId = undefined;
    const url = this.api(`threads/${encodeURIComponent(threadId)}`);
    return defer(() => this.load(url)).pipe(
      mergeMap((thread) => {
        const { state, head, activeRunId } = thread;
        const replay = (messages: Message[]): BaseEvent[] => [
          { type: EventType.RUN_STARTED, threadId, runId },
          { type: EventType.MESSAGES_SNAPSHOT, messages },
          { type: EventType.STATE_SNAPSHOT, snapshot: state },
          { type: EventType.RUN_FINISHED, threadId, runId },
        ];
        if (activeRunId === null) return from(replay(thread.messages));
        this.runId = activeRunId;
        // Its first event says which messages it takes back. AG-UI has no event for that.
        return this.follow(`${url}/events?after=${encodeURIComponent(head)}`).pipe(
          concatMap((event, place) =>
            place > 0 ? of(event) : [...replay(beforeRun(thread.messages, event)), event],
          ),
        );
      }),
    );
  }

  /** Stop the active run; its end event follows. Without the gateway, only drop the request. */
  override abortRun(): void {
    if (this.runId === undefined) {
      super.abortRun();
      return;
    }
    const url = this.api(`runs/${encodeURIComponent(this.runId)}/abort`);
    this.fetch(url, { method: "POST", headers: this.headers }).then(
      ({ ok }) => {
        if (!ok) super.abortRun();
      },
      () => {
        super.abortRun();
      },
    );
  }

  override clone(): HttpAgent {
    // The published method makes an object of the class that it is called on.
    // eslint-disable-next-line @typescript-eslint/no-unsafe-class-instance-assignment
    const clone = super.clone() as HttpAgent;
    clone.standing = this.standing;
    return clone;
  }

  /** Keep the thread's messages after a run. A refused run has added none. */
  protected override apply(
    input: RunAgentInput,
    events: Observable<BaseEvent>,
    subscribers: AgentSubscriber[],
  ): Observable<AgentStateMutation> {
    let isOnRecord = false;
    const watched = events.pipe(
      tap(({ type }) => {
        isOnRecord ||= type === EventType.RUN_STARTED;
      }),
    );
    return super.apply(input, watched, subscribers).pipe(
      finalize(() => {
        if (isOnRecord) this.standing = structuredClone(this.messages);
      }),
    );
  }

  /** Return the events of an address up to the end of the first run. */
  private follow(url: string): Observable<BaseEvent> {
    const leaving = this.abortController;
    const { signal } = leaving;
    const headers = { ...this.headers, Accept: "text/event-stream" };
    const events = transformHttpEventStream(
      runHttpRequest(() => this.fetch(url, { headers, signal })),
    );
    return events.pipe(
      takeWhile(({ type }) => !ENDS.includes(type), true),
      tap(({ type }) => {
        if (ENDS.includes(type)) this.runId = undefined;
      }),
      finalize(() => {
        leaving.abort(); // the stream is the thread's, and goes on
      }),
    );
  }

  /** Return a thread with all its messages, as of one moment; empty when nobody used it yet. */
  private async load(url: string): Promise<Thread> {
    const empty = { messages: [], before: null, head: "", activeRunId: null, state: {} };
    const first = await this.get(url, empty);
    let { messages, before } = first;
    while (before !== null) {
      const older = await this.get(`${url}?before=${encodeURIComponent(before)}`, empty);
      messages = [...older.messages, ...messages];
      before = older.before;
    }
    return { ...first, messages };
  }

  private async get(url: string, missing: Thread): Promise<Thread> {
    const { signal } = this.abortController;
    const answer = await this.fetch(url, { headers: this.headers, signal });
    if (answer.status === 404) return missing;
    if (!answer.ok) throw new Error(`HTTP ${String(answer.status)}: ${await answer.text()}`);
    return (await answer.json()) as Thread;
  }

  private api(path: string): string {
    return this.url.replace(/\/agui(\/[^/?#]*)?\/?([?#].*)?$/, "") + `/api/${path}`;
  }
}
