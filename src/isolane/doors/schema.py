"""JSON Schema of the wire's frames, for authors of clients.

`python -m isolane.doors.schema` prints it. These classes only describe; frames are decoded and
encoded in `frames`. A class that forbids unknown fields is complete. The others are AG-UI's, and
may have more fields.
"""

# Long because: it lists every frame of the wire once, as a table does.

from __future__ import annotations

import sys
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from isolane.wire.frames import SUBPROTOCOL, VERSION

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

WireId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._:-]{1,128}$")]
LogId = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9]{1,32}-(0|[1-9][0-9]{0,14})$",
        description="Place of an entry in its thread's log, `<epoch>-<seq>`; opaque to clients.",
    ),
]
Instant = Annotated[int, Meta(description="Milliseconds since 1970.")]
Count = Annotated[int, Meta(ge=0)]
Code = Annotated[str, Meta(description="Stable: what programs may act on.")]
ErrorId = Annotated[str, Meta(description="Names exactly one record of the server's log.")]


# --- what both send ------------------------------------------------------------------------------


class AgUiEvent(Struct):
    """An AG-UI event; its type says which other fields it has."""

    type: str


class Message(Struct):
    """An AG-UI message; its role says which other fields it has."""

    id: str
    role: str
    content: Any | UnsetType = UNSET


# --- what clients send ---------------------------------------------------------------------------


class HelloFrame(Struct, tag="hello", forbid_unknown_fields=True):
    """The client asks for control frames from now on."""

    v: Literal[1]


class SubscribeFrame(Struct, tag="subscribe", rename="camel", forbid_unknown_fields=True):
    """The client follows a thread, strictly after an id.

    Without an id from the start of its log.
    """

    thread_id: WireId
    after: LogId | UnsetType = UNSET


class UnsubscribeFrame(Struct, tag="unsubscribe", rename="camel", forbid_unknown_fields=True):
    """The client stops following a thread."""

    thread_id: WireId


class AuthFrame(Struct, tag="auth", forbid_unknown_fields=True):
    """The client brings a newer token of the same user."""

    token: Annotated[str, Meta(min_length=1)]


class PingFrame(Struct, tag="ping", forbid_unknown_fields=True):
    """The client asks for a pong that carries the same `t`."""

    t: Any | UnsetType = UNSET


class AbortFrame(Struct, tag="abort", rename="camel", forbid_unknown_fields=True):
    """The client stops one of the user's runs."""

    run_id: WireId


class RunInput(Struct, rename="camel"):
    """The client runs the agent: AG-UI's RunAgentInput, the one client frame without a `type`."""

    thread_id: WireId
    run_id: WireId
    messages: list[Message]
    state: Any | UnsetType = UNSET
    tools: list[Any] | UnsetType | None = UNSET
    context: list[Any] | UnsetType | None = UNSET
    forwarded_props: Any | UnsetType = UNSET
    resume: list[Any] | UnsetType | None = UNSET
    parent_run_id: str | UnsetType | None = UNSET


ClientControlFrame = (
    HelloFrame | SubscribeFrame | UnsubscribeFrame | AuthFrame | PingFrame | AbortFrame
)
"""The client's frames with a type; `RunInput` has none."""


# --- what the server sends -----------------------------------------------------------------------


class EnvelopeFrame(Struct, rename="camel", forbid_unknown_fields=True):
    """One entry of a thread's log. It has no `type`."""

    id: LogId
    chunk: AgUiEvent
    thread_id: WireId
    run_id: WireId


class RunErrorMetadata(Struct, rename="camel", forbid_unknown_fields=True):
    """Fields that Isolane adds to a RUN_ERROR."""

    error_id: ErrorId
    agent_code: (
        Annotated[
            str,
            Meta(
                pattern=r"^[A-Za-z0-9._-]{1,64}$",
                description="Of `agent_error`: the code of the agent's own error.",
            ),
        ]
        | UnsetType
    ) = UNSET


class RunErrorFrame(Struct, tag="RUN_ERROR", rename="camel", forbid_unknown_fields=True):
    """An error that belongs to no log, as an event without an envelope."""

    message: str
    code: Code
    metadata: RunErrorMetadata
    run_id: WireId | UnsetType = UNSET


class HeartbeatFrame(Struct, tag="ping", forbid_unknown_fields=True):
    """Sent every `heartbeatMs`, so that a client sees that the connection is alive."""


class Limits(Struct, rename="camel", forbid_unknown_fields=True):
    """The limits that are enforced."""

    connections_per_user: Count
    threads_per_user: Count
    runs_per_user: Count
    queued_runs_per_thread: Count
    frames_per_minute: Count
    requests_per_user: Count
    frame_bytes: Count
    request_bytes: Count
    chat_frame_bytes: Count
    event_bytes: Count
    run_bytes: Count
    run_events: Count
    stored_threads_per_user: Count
    stored_bytes_per_user: Count
    send_timeout_ms: Count


class Transport(Struct, forbid_unknown_fields=True):
    """Capabilities of the transport, in AG-UI's words."""

    streaming: bool
    websocket: bool
    resumable: bool


class Capabilities(Struct, forbid_unknown_fields=True):
    """AG-UI's capabilities that are the gateway's, and how many processes serve its users."""

    transport: Transport
    nodes: Annotated[int, Meta(gt=0)]


class ActiveRun(Struct, rename="camel", forbid_unknown_fields=True):
    """An active run, and the head of its thread's log."""

    thread_id: WireId
    run_id: WireId
    head: LogId


class WelcomeFrame(Struct, tag="welcome", rename="camel", forbid_unknown_fields=True):
    """The answer to hello."""

    v: Literal[1]
    connection_id: str
    user_id: str
    heartbeat_ms: Annotated[int, Meta(gt=0)]
    limits: Limits
    capabilities: Capabilities
    token_expires_at: Instant | None
    active_runs: list[ActiveRun]


class SubscribedFrame(Struct, tag="subscribed", rename="camel", forbid_unknown_fields=True):
    """The thread's entries follow.

    When `recovered` is false there was a gap: they follow after `messages`, or without those, after
    a read of the thread.
    """

    thread_id: WireId
    head: LogId
    recovered: bool
    messages: list[Message] | UnsetType = UNSET


class UnsubscribedFrame(Struct, tag="unsubscribed", rename="camel", forbid_unknown_fields=True):
    """No more entries of the thread follow."""

    thread_id: WireId


class AuthOkFrame(Struct, tag="auth_ok", rename="camel", forbid_unknown_fields=True):
    """The newer token is in force."""

    expires_at: Instant | None


class AuthExpiringFrame(Struct, tag="auth_expiring", rename="camel", forbid_unknown_fields=True):
    """The credential expires soon, and the connection closes with it."""

    expires_at: Instant


class PongFrame(Struct, tag="pong", forbid_unknown_fields=True):
    """The answer to a client's ping."""

    t: Any | UnsetType = UNSET


class AcceptedFrame(Struct, tag="accepted", rename="camel", forbid_unknown_fields=True):
    """The server has accepted the run; comes before the run's first entry."""

    thread_id: WireId
    run_id: WireId
    request_id: str
    disposition: Literal["started", "queued", "attached"]
    position: Annotated[int, Meta(ge=1, description="Of a queued run; 1 is next.")] | UnsetType = (
        UNSET
    )
    attached_to: (
        Annotated[
            WireId,
            Meta(description="The run that asks this question already; its entries follow."),
        ]
        | UnsetType
    ) = UNSET


class StoppingFrame(Struct, tag="stopping", rename="camel", forbid_unknown_fields=True):
    """The run is being stopped, or has ended already."""

    run_id: WireId


class ThreadFrame(Struct, tag="thread", rename="camel", forbid_unknown_fields=True):
    """One of the user's threads changed."""

    thread_id: WireId
    title: str
    updated_at: Instant
    active_run_id: WireId | None
    deleted: bool


class DrainingFrame(Struct, tag="draining", rename="camel", forbid_unknown_fields=True):
    """The server shuts down; runs go on until the deadline at most."""

    deadline_ms: Instant


class ErrorFrame(Struct, tag="error", rename="camel", forbid_unknown_fields=True):
    """A refusal, either of a frame or before a close."""

    code: Code
    message: str
    error_id: ErrorId
    retryable: bool
    retry_after_ms: Count | UnsetType = UNSET
    thread_id: WireId | UnsetType = UNSET
    run_id: WireId | UnsetType = UNSET
    reason: (
        Annotated[str, Meta(description="Of `unauthenticated`: what is wrong with the credential.")]
        | UnsetType
    ) = UNSET
    field: Annotated[str, Meta(description="Of `invalid_input`: its name.")] | UnsetType = UNSET


ServerControlFrame = (
    WelcomeFrame
    | SubscribedFrame
    | UnsubscribedFrame
    | AuthOkFrame
    | AuthExpiringFrame
    | PongFrame
    | AcceptedFrame
    | StoppingFrame
    | ThreadFrame
    | DrainingFrame
    | ErrorFrame
    | HeartbeatFrame
    | RunErrorFrame
)
"""The server's frames with a type; `EnvelopeFrame` has none."""


def frame_schema() -> dict[str, Any]:
    """Return the JSON Schema of every frame; `$defs` has one entry per frame, and two unions."""
    kinds = (ClientControlFrame, RunInput, ServerControlFrame, EnvelopeFrame)
    (client, run, server, envelope), shapes = msgspec.json.schema_components(
        kinds, ref_template="#/$defs/{name}"
    )
    unions = {
        "ClientFrame": {"description": "What a client sends.", "anyOf": [*client["anyOf"], run]},
        "ServerFrame": {
            "description": "What the server sends.",
            "anyOf": [*server["anyOf"], envelope],
        },
    }
    return {
        "$schema": DIALECT,
        "title": SUBPROTOCOL,
        "version": VERSION,
        "$defs": {**shapes, **unions},
    }


def run_input_schema() -> dict[str, Any]:
    """Return the JSON Schema of a run's input without references."""
    (schema,), shapes = msgspec.json.schema_components([RunInput], ref_template="{name}")
    whole: dict[str, Any] = _inlined(schema, shapes)
    return whole


def _inlined(schema: Any, shapes: dict[str, Any]) -> Any:  # noqa: ANN401 - any part of a schema
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inlined(shapes[schema["$ref"]], shapes)
        return {name: _inlined(value, shapes) for name, value in schema.items()}
    if isinstance(schema, list):
        return [_inlined(value, shapes) for value in schema]
    return schema


if __name__ == "__main__":
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(frame_schema())).decode() + "\n")
