// A chat on one WebSocket. It goes on after a cut line, a reload and in a second tab, and stops.
// npm install && npx vite, then open the address that it prints with, behind it:
// #server=http://127.0.0.1:8000&token=<what `isolane token --user ada` prints>
import { Chat, useChat } from "@ai-sdk/react"
import { lastAssistantMessageIsCompleteWithApprovalResponses, WebSocketChatTransport } from "ai"
import { useState } from "react"
import { createRoot } from "react-dom/client"

const asked = new URLSearchParams(location.hash.slice(1))
const token = asked.get("token")
const door = asked.get("server") + (asked.get("door") ?? "/ai/chat")
const id = asked.get("chat") ?? "example"
const headers = { Authorization: `Bearer ${token}` }
const loaded = await fetch(`${door}/${id}/messages`, { headers })

const chat = new Chat({
  id,
  messages: loaded.ok ? await loaded.json() : [],
  transport: new WebSocketChatTransport({ url: door, protocols: ["ai-chat.v1", `bearer.${token}`] }),
  sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithApprovalResponses,
})

function Part({ part }) {
  if (part.type === "text") return <span>{part.text}</span>
  if (part.state !== "approval-requested") return null
  const decide = (approved) => chat.addToolApprovalResponse({ id: part.approval.id, approved })
  return (
    <span>
      May I {part.type.replace("tool-", "")}? <button onClick={() => decide(true)}>Yes</button>
      <button onClick={() => decide(false)}>No</button>
    </span>
  )
}

function App() {
  const { messages, status, error } = useChat({ chat, resume: true })
  const [text, setText] = useState("")
  const send = (event) => {
    event.preventDefault()
    chat.sendMessage({ text })
    setText("")
  }
  return (
    <form onSubmit={send}>
      {messages.map(({ id, role, parts }) => (
        <p key={id} className={role}>{parts.map((part, place) => <Part key={place} part={part} />)}</p>
      ))}
      <output>{error ? error.message : status}</output>
      <input autoFocus value={text} onChange={(event) => setText(event.target.value)} />
      <button type="submit">Send</button>
      <button type="button" onClick={() => chat.stop()}>Stop</button>
      <button type="button" onClick={() => chat.regenerate()}>Again</button>
      <button type="button" onClick={() => chat.resumeStream()}>Go on</button>
    </form>
  )
}

createRoot(document.getElementById("root")).render(<App />)
