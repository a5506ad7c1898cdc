/** How the views reach the page's one actor. */
import { createContext, use } from "react";
import type { Chat } from "./chat";
import type { ChatState } from "./state";
import { useStore } from "./store";

export const ChatContext = createContext<Chat | null>(null);

export function useActor(): Chat {
  const chat = use(ChatContext);
  if (chat === null) throw new Error("a view stands outside ChatContext");
  return chat;
}

export function useChat<V>(pick: (state: ChatState) => V): V {
  return useStore(useActor().store, pick);
}
