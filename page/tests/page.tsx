/** The page in jsdom, in front of a gateway that is stubbed. */
import { createRoot } from "react-dom/client";
import type { Root } from "react-dom/client";
import { expect, vi } from "vitest";
import { Chat } from "../src/chat";
import { ChatContext } from "../src/context";
import { App } from "../src/views/App";
import type { Message } from "../src/wire";
import { FakeClient, stubDoors } from "./gateway";
import type { Account } from "./gateway";

export interface Page {
  chat: Chat;
  /** Whose session there is. */
  account: Account;
  door: ReturnType<typeof stubDoors>;
  root: Root;
  /** The newest sign-in's connection. */
  client: () => FakeClient;
  signIn: () => Promise<void>;
}

class Silent {
  observe = vi.fn();
  unobserve = vi.fn();
  disconnect = vi.fn();
  postMessage = vi.fn();
}

/** Draw the page of a browser that hasn't asked for anything yet. */
export function openPage(threads: Record<string, Message[]> = {}): Page {
  // What jsdom hasn't got, or would carry from one test into the next.
  vi.stubGlobal("ResizeObserver", Silent);
  vi.stubGlobal("BroadcastChannel", Silent);
  vi.stubGlobal("matchMedia", () => ({
    matches: true,
    addEventListener: vi.fn(),
    removeEventListener: vi.fn(),
  }));
  Element.prototype.scrollTo = () => undefined;
  location.hash = "";
  const account = { userId: "mara", password: "open" };
  const door = stubDoors(account, threads);
  const clients: FakeClient[] = [];
  const client = () => clients.at(-1) ?? expect.fail("nobody is signed in");
  const chat = new Chat(() => {
    clients.push(new FakeClient());
    return client();
  });
  const signIn = async () => {
    await chat.signIn("mara", "open");
    client().tell("state", "open", {});
  };
  return { chat, account, door, root: draw(chat), client, signIn };
}

export function closePage({ root }: Page): void {
  root.unmount();
  document.body.replaceChildren();
  vi.unstubAllGlobals();
}

function draw(chat: Chat): Root {
  const root = createRoot(document.body.appendChild(document.createElement("div")));
  root.render(
    <ChatContext value={chat}>
      <App />
    </ChatContext>,
  );
  return root;
}

export const find = (hook: string) => [
  ...document.querySelectorAll<HTMLElement>(`[data-testid="${hook}"]`),
];
export const words = (hook: string) => find(hook).map((element) => element.textContent);
