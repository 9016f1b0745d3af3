"""An upload as ``multipart/form-data``, on its way to the store while it arrives: memory holds a piece of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from ramole.core.errors import InvalidInput, LimitExceeded
from ramole.gateway.http.bodies import parse
from ramole.gateway.http.queries import AboutUpload, UploadHead
from ramole.v1.gateway_pb2 import UploadAdapterRequest
from ramole.v1.records_pb2 import FileChunk, UploadHeader

FORM = "multipart/form-data"
HEADER = "header"
FILES = {"config": "adapter_config.json", "weights": "adapter_model.safetensors"}
"""Name of the part -> of the file."""

_PIECE_BYTES = 2**20
_REMEDY = f"send {FORM} with the parts {HEADER}, {' and '.join(FILES)}, in this order"


def header_of(about: AboutUpload) -> UploadAdapterRequest:
    """The first message of an upload."""
    return UploadAdapterRequest(header=UploadHeader(**about.model_dump()))


async def upload_messages(
    content_type: str, body: AsyncGenerator[bytes], *, max_header_bytes: int
) -> AsyncGenerator[UploadAdapterRequest]:
    """The messages that the parts are: the header first, then both files in any order.

    Args:
        content_type: of the request, with the boundary.

    Raises:
        InvalidInput: the body is no such form, has other parts, or ends before its end.
        LimitExceeded: the header is too long. How long files may be, the store says.
    """
    form = _Form(content_type, max_header_bytes)
    async with aclosing(body):
        async for data in body:
            for message in form.feed(data):
                yield message
    form.finish()


class _Form:
    """Takes the body in pieces of any size and gives messages."""

    def __init__(self, content_type: str, max_header_bytes: int) -> None:
        kind, options = parse_options_header(content_type)
        if kind != FORM.encode() or not options.get(b"boundary"):
            raise InvalidInput(f"{content_type[:80]!r} is no form", field="content-type", remedy=_REMEDY)
        self._max_header_bytes = max_header_bytes
        self._messages: list[UploadAdapterRequest] = []
        self._seen: set[str] = set()
        self._part = ""
        self._piece = bytearray()
        self._name, self._value = bytearray(), bytearray()
        self._disposition = b""
        self._has_ended = False
        try:
            self._parser = MultipartParser(
                options[b"boundary"],
                {
                    "on_part_begin": self._begin,
                    "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                    "on_header_end": self._end_of_header,
                    "on_headers_finished": self._begin_data,
                    "on_part_data": self._take,
                    "on_part_end": self._end,
                    "on_end": self._finish,
                },
            )
        except FormParserError as error:
            raise _broken(error) from None

    def feed(self, data: bytes) -> list[UploadAdapterRequest]:
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _broken(error) from None
        messages, self._messages = self._messages, []
        return messages

    def finish(self) -> None:
        if not self._has_ended:
            raise InvalidInput("the form ends before its last boundary", field="body", remedy="send all of it")
        missing = [name for name in (HEADER, *FILES) if name not in self._seen]
        if missing:
            raise InvalidInput(f"the part {missing[0]!r} is missing", field=missing[0], remedy=_REMEDY)

    def _begin(self) -> None:
        self._disposition = b""

    def _end_of_header(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def _begin_data(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name != HEADER and name not in FILES:
            raise InvalidInput("there is no such part", field=name[:80] or "body", remedy=_REMEDY)
        if name in self._seen:
            raise InvalidInput("a second part of this name", field=name, remedy=_REMEDY)
        if name != HEADER and HEADER not in self._seen:
            raise InvalidInput(f"it comes before the part {HEADER!r}", field=name, remedy=_REMEDY)
        self._seen.add(name)
        self._part = name

    def _take(self, data: bytes, start: int, end: int) -> None:
        self._piece += data[start:end]
        if self._part == HEADER and len(self._piece) > self._max_header_bytes:
            raise LimitExceeded(f"more than {self._max_header_bytes} bytes", field=HEADER, remedy="send fewer samples")
        if self._part != HEADER and len(self._piece) >= _PIECE_BYTES:
            self._flush()

    def _end(self) -> None:
        if self._part == HEADER:
            try:
                self._messages.append(header_of(parse(UploadHead, bytes(self._piece))))
            except InvalidInput as error:
                raise error.at(HEADER if error.field == "body" else f"{HEADER}.{error.field}") from None
            self._piece.clear()
        elif self._piece:
            self._flush()

    def _finish(self) -> None:
        self._has_ended = True

    def _flush(self) -> None:
        chunk = FileChunk(file=FILES[self._part], data=bytes(self._piece))
        self._messages.append(UploadAdapterRequest(chunk=chunk))
        self._piece.clear()


def _broken(error: FormParserError) -> InvalidInput:
    return InvalidInput(f"the form cannot be read: {error}", field="body", remedy=_REMEDY)
