"""The parts of a message's content: known ones are kept, older ones translated, others left out.

AG-UI 1.0 leaves out a part of an unknown type, or with a source of an unknown type. Malformed parts
of a known type stay, because the validation after this step refuses them. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, get_args

from ag_ui.core import ContentPart, PartSource

from isolane.events.left_out import Kind, LeftOut

Part = Mapping[str, Any]


def tags_of(union: Any, name: str) -> frozenset[str]:  # noqa: ANN401 - a typing.Union has no type of its own
    """Return the values of the tag field of one of AG-UI's unions."""
    members = get_args(get_args(union)[0])
    return frozenset(
        str(getattr(tag, "value", tag))
        for member in members
        for tag in get_args(member.model_fields[name].annotation)
    )


_TYPES: Final = tags_of(ContentPart, "type")
_SOURCES: Final = tags_of(PartSource, "type")
_MEDIA: Final = ("image", "audio", "video")
_OLD_SOURCES: Final = {"data": "data", "url": "url", "id": "file"}
"""Fields for a part's bytes before AG-UI 1.0, the preferred one first, with today's source
types."""


def known_parts(parts: Sequence[Any], left_out: LeftOut) -> dict[int, Any]:
    """Return the known parts by index, each `binary` part translated."""
    return dict(_known(parts, left_out))


def _known(parts: Sequence[Any], left_out: LeftOut) -> Iterator[tuple[int, Any]]:
    kinds = [part.get("type") if isinstance(part, Mapping) else None for part in parts]
    twins = set(map(_print_of, parts)) if "binary" in kinds else set()
    for place, (kind, part) in enumerate(zip(kinds, parts, strict=True)):
        if kind == "binary":
            modern = to_modern(part)
            if modern is part or _print_of(modern) not in twins:
                yield place, modern
        elif isinstance(kind, str) and kind not in _TYPES:
            left_out.note(Kind.PART, kind)
        elif (source := _unknown_source(part)) is not None:
            left_out.note(Kind.PART, f"{kind} from {source}")
        else:
            yield place, part


def _unknown_source(part: Any) -> str | None:  # noqa: ANN401 - any JSON value
    source = part.get("source") if isinstance(part, Mapping) else None
    kind = source.get("type") if isinstance(source, Mapping) else None
    return kind if isinstance(kind, str) and kind not in _SOURCES else None


def to_modern(part: Part) -> Part:
    """Return a `binary` part of AG-UI before 1.0 as an image, audio, video or document part.

    A part without a media type, or without `data`, `url` and `id`, stays unchanged.
    """
    mime_type = part.get("mimeType", part.get("mime_type"))
    if not isinstance(mime_type, str):
        return part
    source = next(filter(None, (_source_of(part, name) for name in _OLD_SOURCES)), None)
    if source is None:
        return part
    family = mime_type.partition("/")[0].lower()
    filename = part.get("filename")
    return {
        "type": family if family in _MEDIA else "document",
        "source": {**source, "mimeType": mime_type},
        **({"metadata": {"filename": filename}} if isinstance(filename, str) else {}),
    }


def _source_of(part: Part, name: str) -> dict[str, str] | None:
    value = part.get(name)
    if not isinstance(value, str) or not value:
        return None
    return {"type": _OLD_SOURCES[name], "value": value}


def _print_of(part: Any) -> tuple[str, ...]:  # noqa: ANN401 - any JSON value
    """Return the key of a media part, because some clients send each part in both forms."""
    source = part.get("source") if isinstance(part, Mapping) else None
    if not isinstance(source, Mapping):
        return ()
    metadata = part.get("metadata")
    filename = metadata.get("filename") if isinstance(metadata, Mapping) else None
    told = (part.get("type"), *map(source.get, ("type", "value", "mimeType")), filename or "")
    return tuple(map(str, told))
