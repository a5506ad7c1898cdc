/** The page's connection: as much of `@isolane/client` as it uses. */
import { IsolaneClient } from "@isolane/client";
import { resolve } from "./base";

export type Client = Pick<
  IsolaneClient,
  | "connect"
  | "close"
  | "subscribe"
  | "unsubscribe"
  | "run"
  | "abort"
  | "onState"
  | "onEvent"
  | "onGap"
  | "onThread"
  | "onError"
>;

export const newClient = (): Client => new IsolaneClient({ url: resolve("ws") });
