import { createRoot } from "react-dom/client";
import { Chat } from "./chat";
import { ChatContext } from "./context";
import { getTheme, setTheme } from "./theme";
import { App } from "./views/App";

const chat = new Chat();
const root = document.getElementById("root");
if (root === null) throw new Error("index.html has no #root");

setTheme(getTheme());
createRoot(root).render(
  <ChatContext value={chat}>
    <App />
  </ChatContext>,
);

addEventListener("hashchange", () => chat.route());
addEventListener("focus", () => void chat.recheck());
void chat.open();
