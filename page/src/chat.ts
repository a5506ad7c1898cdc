/** The page's one controller, which talks to the server and holds the state of the views. */
import { RunRefused, loadHistory } from "@isolane/client";
import type { Entry as ClientEntry, RunInput, State as Link, StateDetails } from "@isolane/client";
import * as api from "./api";
import { Problem } from "./api";
import { resolve } from "./base";
import { isThreadId, toName } from "./address";
import { takeFailure } from "./arrival";
import { loadAsked, saveAsked, toAsked, toPayload, withAsked } from "./asked";
import type { Asked, Reply } from "./asked";
import { newClient } from "./client";
import type { Client } from "./client";
import { draftOf, Drafts } from "./drafts";
import { newId } from "./ids";
import { Notices } from "./notices";
import { Pace } from "./pace";
import { newState } from "./state";
import type { ChatState } from "./state";
import { UserStorage } from "./storage";
import { Store } from "./store";
import { ThreadList } from "./threads";
import { accept, ask, EMPTY, fold, restart, takeBack, withdraw } from "./transcript";
import type { Pending, Transcript } from "./transcript";
import { reword, toTurns, wordsOf } from "./turns";
import type { Account, Entry, Event, Interrupt, Message, Thread } from "./wire";

const SESSION_ENDED = "Your session has ended. Sign in to go on.";
/** Close code of a socket whose credential has expired or was revoked. */
const UNAUTHENTICATED = 4401;
const RECHECK_MS = 15_000;
const CAUGHT_UP_TOLD_MS = 10_000;

export class Chat {
  readonly store = new Store<ChatState>(newState());
  readonly notices = new Notices();
  readonly drafts = new Drafts();
  readonly threads: ThreadList;
  private readonly pace = new Pace<Entry>((batch) => this.grow(batch));
  /** Tells the browser's other tabs that somebody signed in or out. */
  // The same origin may have another gateway at another path.
  private readonly tabs = new BroadcastChannel(`isolane.session ${resolve("")}`);
  private client: Client | null = null;
  /** Data of the signed-in user in this browser. */
  private storage: UserStorage | null = null;
  private checkedAt = 0;
  private newsTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(private readonly makeClient: () => Client = newClient) {
    this.threads = new ThreadList((problem) => this.fail(problem));
    this.tabs.onmessage = () => void this.look();
  }

  get state(): ChatState {
    return this.store.get();
  }

  // --- the session -----------------------------------------------------------------------------

  /** Begin: load the user, and open the thread in the address. */
  async open(): Promise<void> {
    const failure = takeFailure();
    try {
      this.enter(await api.loadAccount());
      if (failure !== null) this.notices.tell(failure, { code: "signin" });
    } catch (problem) {
      if (problem instanceof Problem && problem.status === 401) this.leave(failure);
      else this.leave(explain(problem));
    }
  }

  async signIn(username: string, password: string): Promise<void> {
    await api.signIn(username, password);
    this.tabs.postMessage("in");
    this.enter(await api.loadAccount());
  }

  signOut(): Promise<void> {
    return this.quit(api.signOut);
  }

  signOutEverywhere(): Promise<void> {
    return this.quit(api.signOutEverywhere);
  }

  private async quit(end: () => Promise<unknown>): Promise<void> {
    try {
      await end();
    } catch (problem) {
      // A 401 means that the session had ended already, so the user is signed out all the same.
      if (!(problem instanceof Problem && problem.status === 401)) return this.fail(problem);
    }
    this.storage?.clear();
    this.tabs.postMessage("out");
    location.hash = "";
    this.leave(null);
  }

  /** Check now and then that the session still belongs to the same user. */
  async recheck(): Promise<void> {
    if (Date.now() - this.checkedAt >= RECHECK_MS) await this.look();
  }

  private async look(): Promise<void> {
    if (this.state.session === "loading") return;
    this.checkedAt = Date.now();
    try {
      const account = await api.loadAccount();
      if (account.userId !== this.state.account?.userId) location.reload();
    } catch (problem) {
      const isOut = problem instanceof Problem && problem.status === 401;
      if (isOut && this.state.session === "in") this.leave(SESSION_ENDED);
    }
  }

  private enter(account: Account): void {
    this.checkedAt = Date.now();
    this.storage = new UserStorage(account.userId);
    this.drafts.open(this.storage);
    this.store.set({ session: "in", account, farewell: null });
    this.client = this.listen(this.makeClient());
    this.client.connect();
    this.route();
  }

  /** A client belongs to one user: its unsent runs must not be sent for the next user. */
  private listen(client: Client): Client {
    client.onState((link, details) => this.follow(link, details));
    client.onEvent((threadId, entry) => this.hear(threadId, entry));
    client.onGap((threadId, messages) => this.mend(threadId, messages as readonly Message[] | null));
    client.onThread((frame) => {
      if (!this.threads.take(frame)) return;
      this.storage?.forget(frame.threadId);
      if (frame.threadId === this.state.threadId) this.lose();
    });
    client.onError((error) => {
      if (error.runId === undefined) this.notices.tell(error.message, error);
    });
    return client;
  }

  private leave(farewell: string | null): void {
    const { client } = this;
    this.client = null; // what it says of its own closing is no news
    client?.close();
    this.storage = null;
    this.drafts.open(null);
    this.pace.clear();
    this.threads.clear();
    this.notices.clear();
    this.store.set({ ...newState(), session: "out", farewell });
  }

  private follow(link: Link, details: StateDetails): void {
    if (this.client === null) return;
    const was = this.state.link;
    this.store.set({ link, details });
    if (link === "closed") this.hearClosed(details);
    if (link === "waiting" && details.code === UNAUTHENTICATED) void this.look();
    if (details.caughtUp !== undefined) this.tellCaughtUp(details.caughtUp);
    // Only a new connection is a reason to load again; a notice of a drain is not.
    if (link !== "open" || was === "open" || details.caughtUp !== undefined) return;
    const userId = details.welcome?.userId;
    if (userId !== undefined && userId !== this.state.account?.userId) location.reload();
    else void this.threads.reload();
  }

  private hearClosed({ cause, error }: StateDetails): void {
    if (cause === "signed-out" && this.state.session === "in") this.leave(SESSION_ENDED);
    if (cause === "refused" && error) this.notices.tell(error.message, error);
  }

  private tellCaughtUp(caughtUp: number): void {
    this.store.set({ caughtUp });
    clearTimeout(this.newsTimer);
    this.newsTimer = setTimeout(() => this.store.set({ caughtUp: null }), CAUGHT_UP_TOLD_MS);
  }

  // --- which thread ----------------------------------------------------------------------------

  /** Show the thread that the address names. */
  route(): void {
    const named = toName(location.hash);
    if (this.state.session !== "in") return;
    if (named === "") {
      if (this.state.phase !== "new") this.begin();
    } else if (named !== this.state.threadId || this.state.phase === "failed") {
      void this.show(named);
    }
  }

  private begin(): void {
    this.forget(this.state.threadId);
    this.put(EMPTY, { threadId: newId(), phase: "new", stoppingId: null });
  }

  private async show(threadId: string, pending: readonly Pending[] = []): Promise<void> {
    this.forget(this.state.threadId);
    this.put({ ...EMPTY, pending }, { threadId, phase: "loading", stoppingId: null });
    if (!isThreadId(threadId)) {
      this.store.set({ phase: "missing" });
      return;
    }
    const asked = loadAsked(this.storage, threadId);
    const isLeft = () => this.state.threadId !== threadId || this.state.session !== "in";
    try {
      // The newest page is shown at once; older messages are added until the thread is complete.
      const { head } = await loadHistory<Thread>(
        (before) => api.loadThread(threadId, before),
        ({ messages, interrupts }) => {
          if (isLeft()) return false;
          this.put(restart(messages, this.state.transcript.pending, interrupts, asked));
          return true;
        },
      );
      if (isLeft()) return;
      this.store.set({ phase: "ready" });
      this.client?.subscribe(threadId, { after: head });
    } catch (problem) {
      if (isLeft()) return;
      if (problem instanceof Problem && problem.status === 410) {
        return await this.show(threadId, this.state.transcript.pending);
      }
      const isMissing = problem instanceof Problem && problem.status === 404;
      this.store.set({ phase: isMissing ? "missing" : "failed" });
      if (isMissing) this.drafts.moveOn(threadId);
      else this.fail(problem);
    }
  }

  private forget(threadId: string): void {
    this.pace.clear();
    this.client?.unsubscribe(threadId);
  }

  /** The open thread was deleted, here or elsewhere. */
  private lose(): void {
    this.notices.tell("This conversation was deleted.");
    this.pace.clear();
    location.hash = "";
    this.put(EMPTY, { threadId: newId(), phase: "new", stoppingId: null });
  }

  // --- what comes in ---------------------------------------------------------------------------

  private hear(threadId: string, { id, event, runId }: ClientEntry): void {
    if (threadId === this.state.threadId) this.pace.add({ id, runId, event: event as Event });
  }

  private grow(batch: readonly Entry[]): void {
    const { threadId, transcript, stoppingId } = this.state;
    const grown = fold(transcript, batch);
    if (grown.asked !== transcript.asked) saveAsked(this.storage, threadId, grown.asked);
    const isStopped = grown.activeRunId !== stoppingId && stoppingId !== null;
    this.put(grown, isStopped ? { stoppingId: null } : {});
  }

  private mend(threadId: string, messages: readonly Message[] | null): void {
    if (threadId !== this.state.threadId) return;
    const { pending, asked } = this.state.transcript;
    this.pace.clear();
    if (messages === null) void this.show(threadId, pending);
    else this.put(restart(messages, pending, [], asked), { phase: "ready" });
    this.notices.tell("You were away for long; the conversation was loaded anew.");
  }

  private put(transcript: Transcript, change: Partial<ChatState> = {}): void {
    this.store.set({ ...change, transcript, turns: toTurns(transcript, this.state.turns) });
  }

  // --- what goes out ---------------------------------------------------------------------------

  /** Keep what is written in the open thread. */
  write(text: string): void {
    this.drafts.write(draftOf(this.state), text);
  }

  send(text: string): void {
    const name = draftOf(this.state);
    const runId = this.ask({ id: newId(), role: "user", content: text });
    this.drafts.send(name, runId, text);
  }

  /** Ask a question in other words, with its pictures, and drop what followed it. */
  edit(messageId: string, text: string): void {
    const old = this.state.transcript.messages.find(({ id }) => id === messageId);
    const content = reword(old?.content, text);
    this.ask({ id: newId(), role: "user", content } as Message, messageId);
  }

  /** Ask the last question again. */
  retry(): void {
    const last = this.state.transcript.messages.findLast(({ role }) => role === "user");
    if (last !== undefined) this.ask({ ...last, id: newId() }, last.id);
  }

  /** Answer what a run waits for; return whether the server took it. */
  async answer(interrupts: readonly Interrupt[], reply: Reply): Promise<boolean> {
    const { threadId, transcript } = this.state;
    const asked = toAsked(interrupts, transcript.messages.at(-1)?.id ?? "", reply);
    this.settleAsked(threadId, (list) => withAsked(list, asked));
    const isTaken = await this.run({
      runId: newId(),
      messages: [],
      resume: interrupts.map(({ id }) =>
        reply.kind === "declined"
          ? { interruptId: id, status: "cancelled" }
          : { interruptId: id, status: "resolved", payload: toPayload(reply) },
      ),
    });
    // The answer came too late: the user sees that another device was first, or may try again.
    const late = { ...asked, reply: { kind: "elsewhere" } } as const;
    if (!isTaken) this.settleAsked(threadId, (list) => withAsked(list, late));
    return isTaken;
  }

  private settleAsked(threadId: string, change: (list: readonly Asked[]) => readonly Asked[]): void {
    saveAsked(this.storage, threadId, change(loadAsked(this.storage, threadId)));
    this.change(threadId, (now) => ({ ...now, asked: change(now.asked) }));
  }

  /** Return the id of the run that answers. */
  private ask(message: Message, rewindTo?: string): string {
    const pending: Pending = { runId: newId(), message, ...(rewindTo && { rewindTo }) };
    this.put(ask(this.state.transcript, pending));
    const forwardedProps = rewindTo === undefined ? {} : { rewindTo };
    void this.run({ runId: pending.runId, messages: [{ ...message }], forwardedProps }, message);
    if (this.state.phase === "new") {
      this.store.set({ phase: "ready" });
      history.pushState(null, "", `#${this.state.threadId}`);
    }
    return pending.runId;
  }

  private async run(
    given: Pick<RunInput, "runId" | "messages" | "forwardedProps" | "resume">,
    question?: Message,
  ): Promise<boolean> {
    const { threadId } = this.state;
    const input = { threadId, state: {}, tools: [], context: [], forwardedProps: {}, ...given };
    try {
      const accepted = await this.client?.run(input);
      this.drafts.settle(given.runId);
      this.change(threadId, (now) => accept(now, given.runId, accepted?.position));
      return true;
    } catch (refusal) {
      this.pace.flush();
      this.drafts.settle(given.runId);
      this.change(threadId, (now) => withdraw(now, given.runId));
      if (question !== undefined) this.drafts.giveBack(threadId, wordsOf(question));
      this.fail(refusal);
      return false;
    }
  }

  private change(threadId: string, how: (now: Transcript) => Transcript): void {
    if (threadId === this.state.threadId) this.put(how(this.state.transcript));
  }

  /** Stop the run under way. */
  stop(): void {
    const { transcript, stoppingId } = this.state;
    const asked = transcript.pending.find((one) => one.position === undefined);
    const runId = transcript.activeRunId ?? asked?.runId;
    if (runId === undefined || runId === stoppingId) return;
    this.store.set({ stoppingId: runId });
    void this.abort(runId);
  }

  /** Take a waiting question back. */
  cancel(runId: string): void {
    this.put(takeBack(this.state.transcript, runId));
    void this.abort(runId);
  }

  private async abort(runId: string): Promise<void> {
    try {
      await this.client?.abort(runId);
    } catch (refusal) {
      if (this.state.stoppingId === runId) this.store.set({ stoppingId: null });
      this.fail(refusal);
    }
  }

  /** Show an error to the user; after the session's end, show the sign-in. */
  fail(problem: unknown): void {
    if (problem instanceof Problem && problem.status === 401) {
      this.leave(SESSION_ENDED);
    } else if (problem instanceof RunRefused) {
      this.notices.tell(problem.frame.message, problem.frame);
    } else if (problem instanceof Problem) {
      this.notices.tell(problem.message, problem);
    } else {
      this.notices.tell(explain(problem), { code: "page" });
    }
  }
}

function explain(problem: unknown): string {
  return problem instanceof Error ? problem.message : "Something went wrong.";
}
