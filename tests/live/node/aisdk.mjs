// Drives the chat of the package `ai`, unmodified, with its own transports, for tests written in
// another language. One JSON command a line on stdin, {"id", "do", ...}; on stdout one JSON line for
// each answer, {"answer": id, ...}, and for whatever the chat lets an application see, {"event", ...}.
// It ends with its input. What React's `useChat` adds is a state that renders; here it is a plain one.

import {
  AbstractChat,
  DefaultChatTransport,
  WebSocketChatTransport,
  lastAssistantMessageIsCompleteWithApprovalResponses,
  lastAssistantMessageIsCompleteWithToolCalls,
} from 'ai'
import WebSocket from 'ws'
import { describe, obey, report } from './page.mjs'

const chats = new Map()
const sockets = new Map()

/** What `useChat` keeps, without React. */
class PlainState {
  #status = 'ready'
  error
  messages

  constructor(messages) {
    this.messages = messages
  }

  get status() {
    return this.#status
  }

  set status(status) {
    this.#status = status
    this.onStatus?.(status)
  }

  pushMessage = (message) => (this.messages = [...this.messages, message])
  popMessage = () => (this.messages = this.messages.slice(0, -1))
  replaceMessage = (place, message) => {
    this.messages = this.messages.with(place, structuredClone(message))
    this.onMessages?.(this.messages)
  }
  snapshot = (thing) => structuredClone(thing)
}

class PlainChat extends AbstractChat {}

/** `ws`, observed: what comes over it, and how it ends, is reported. */
class ObservedSocket extends WebSocket {
  constructor(url, protocols) {
    super(url, protocols)
    this.on('error', () => {})
    this.on('message', (data) => report('received', { frame: JSON.parse(String(data)) }))
    this.on('close', (code, reason) => report('closed', { code, reason: String(reason) }))
  }
}

/** One transport for all chats of the page that name the same `line`. */
function socketOf({ url, token, ticket, headers, line = '' }) {
  if (!sockets.has(line)) {
    const protocols = token ? ['ai-chat.v1', `bearer.${token}`] : ['ai-chat.v1']
    const params = ticket ? async () => ({ ticket }) : undefined
    sockets.set(
      line,
      new WebSocketChatTransport({ url, protocols, params, headers, webSocket: ObservedSocket }),
    )
  }
  return sockets.get(line)
}

function transportOf({ kind, url, token, last, ...more }) {
  if (kind === 'socket') return socketOf({ url, token, ...more })
  return new DefaultChatTransport({
    api: url,
    headers: { Authorization: `Bearer ${token}` },
    ...(last && {
      prepareSendMessagesRequest: ({ id, messages, trigger, messageId, body }) => ({
        body: { ...body, id, messages: messages.slice(-1), trigger, messageId },
      }),
    }),
  })
}

function open({ chat, messages = [], goesOn = true, ...where }) {
  const state = new PlainState(messages)
  const calls = []
  const page = {
    state,
    calls,
    chat: new PlainChat({
      id: chat,
      state,
      transport: transportOf(where),
      onError: (error) => report('error', { chat, error: describe(error) }),
      onFinish: ({ message, finishReason, isAbort, isDisconnect, isError }) =>
        report('finish', { chat, message, finishReason, isAbort, isDisconnect, isError }),
      onToolCall: ({ toolCall }) => void calls.push(toolCall),
      onData: (data) => report('data', { chat, data }),
      sendAutomaticallyWhen: (given) =>
        goesOn &&
        (lastAssistantMessageIsCompleteWithToolCalls(given) ||
          lastAssistantMessageIsCompleteWithApprovalResponses(given)),
    }),
  }
  state.onStatus = (status) => report('status', { chat, status })
  state.onMessages = (grown) => report('messages', { chat, messages: grown })
  chats.set(chat, page)
  return {}
}

/** Let a turn go on by itself: how it ends is reported. */
function begin(turn) {
  turn.catch((error) => report('rejected', { error: describe(error) }))
  return {}
}

const of = (chat) => chats.get(chat)

const commands = {
  open,
  send: ({ chat, message, options }) => begin(of(chat).chat.sendMessage(message, options)),
  regenerate: ({ chat, options }) => begin(of(chat).chat.regenerate(options)),
  resume: ({ chat }) => begin(of(chat).chat.resumeStream()),
  async stop({ chat }) {
    await of(chat).chat.stop()
    return {}
  },
  /** Lose the network: the socket breaks, as a cut line does. */
  cut({ line = '' }) {
    sockets.get(line)?.connection?.socket?.terminate()
    return {}
  },
  close({ line = '' }) {
    sockets.get(line)?.close()
    sockets.delete(line)
    return {}
  },
  raw({ line = '', text }) {
    sockets.get(line).connection.socket.send(text)
    return {}
  },
  output: ({ chat, ...output }) => begin(of(chat).chat.addToolOutput(output)),
  approve: ({ chat, approvalId, ...answer }) =>
    begin(of(chat).chat.addToolApprovalResponse({ id: approvalId, ...answer })),
  state({ chat }) {
    const { state, calls } = of(chat)
    const { status, messages, error } = state
    return { status, messages, calls, error: error ? describe(error) : null }
  },
}

obey(commands)
