"""The reference pages, made from what they describe: the protos' comments, the settings, the command line."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import textwrap
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import descriptor_pb2 as pb
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ramole.core.setting_errors import fields, section_of
from ramole.core.setting_sources import Key

ROOT = Path(__file__).parents[1]
PUBLIC = "ramole/v1/gateway.proto"

Comments = dict[tuple[int, ...], str]
"""By the path of a declaration in its file, as descriptor.proto defines paths."""

_MESSAGE, _ENUM, _SERVICE = 4, 5, 6
"""First numbers of paths in a file."""
_MEMBER = 2
"""Of a message's field, an enum's value, a service's method."""


@dataclass(frozen=True)
class Declared:
    """A message or an enum, and where it stands."""

    what: pb.DescriptorProto | pb.EnumDescriptorProto
    comments: Comments
    path: tuple[int, ...]

    @property
    def members(self) -> Iterator[tuple[pb.FieldDescriptorProto | pb.EnumValueDescriptorProto, str]]:
        """Each field or value with its comment."""
        members: Sequence[pb.FieldDescriptorProto | pb.EnumValueDescriptorProto]
        members = self.what.field if isinstance(self.what, pb.DescriptorProto) else self.what.value
        for number, member in enumerate(members):
            yield member, self.comments.get((*self.path, _MEMBER, number), "")


def api_page() -> str:
    """The public service: errors, calls, and every message, in the order in which the calls lead to them."""
    files = _descriptors()
    notes: list[str] = []
    declared: dict[str, Declared] = {}
    for file in files:
        comments: Comments = {}
        for place in file.source_code_info.location:
            comments[tuple(place.path)] = " ".join(place.leading_comments.split())
            notes += place.leading_detached_comments
        for number, message in enumerate(file.message_type):
            declared[f".{file.package}.{message.name}"] = Declared(message, comments, (_MESSAGE, number))
        for number, enum in enumerate(file.enum_type):
            declared[f".{file.package}.{enum.name}"] = Declared(enum, comments, (_ENUM, number))
        if file.name == PUBLIC:
            public, service_comments = file.service[0], comments
    lines = [
        "# The gRPC API",
        "",
        service_comments[_SERVICE, 0],
        "",
        "Made from the comments of `protos/ramole/v1`.",
        "",
    ]
    for note in notes:
        title, _, text = note.strip("\n").partition("\n")
        lines += [f"## {title.strip()}", "", "```text", *textwrap.dedent(text.strip("\n")).splitlines(), "```", ""]
    lines += ["## Calls", ""]
    wanted: list[str] = []
    for number, method in enumerate(public.method):
        sides = ((method.client_streaming, method.input_type), (method.server_streaming, method.output_type))
        asks, gives = (("stream of " if streams else "") + _link(name) for streams, name in sides)
        lines += [f"### {method.name}", "", f"{asks} → {gives}", "", service_comments[_SERVICE, 0, _MEMBER, number], ""]
        wanted += [method.input_type, method.output_type]
    lines += ["## Messages", ""]
    for name in _reached(wanted, declared):
        lines += _type_section(declared[name])
    return "\n".join(lines)


def _descriptors() -> list[pb.FileDescriptorProto]:
    """The public proto and all that it imports of ours, with comments."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "protos"
        command = ["-I", "protos", "--include_imports", "--include_source_info", f"--descriptor_set_out={out}", PUBLIC]
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *command], cwd=ROOT, check=True)
        found = pb.FileDescriptorSet.FromString(out.read_bytes())
    return [file for file in found.file if file.package.startswith("ramole.")]


def _reached(wanted: list[str], declared: dict[str, Declared]) -> Iterator[str]:
    seen = set()
    while wanted:
        name = wanted.pop(0)
        if name in seen or name not in declared:
            continue
        seen.add(name)
        yield name
        what = declared[name].what
        if isinstance(what, pb.DescriptorProto):
            wanted[:0] = [field.type_name for field in what.field if field.type_name]


def _type_section(declared: Declared) -> list[str]:
    what = declared.what
    lines = [f"### {what.name}", "", declared.comments.get(declared.path, ""), ""]
    if isinstance(what, pb.EnumDescriptorProto):
        rows = [f"| `{member.name}` | {_cell(comment)} |" for member, comment in declared.members]
        return [*lines, "| value | meaning |", "|---|---|", *rows, ""]
    if not what.field:
        return [*lines, "Empty.", ""]
    lines += ["| field | type | meaning |", "|---|---|---|"]
    for member, comment in declared.members:
        assert isinstance(member, pb.FieldDescriptorProto)
        lines.append(f"| `{member.name}` | {_field_type(what, member)} | {_cell(comment)} |")
    return [*lines, ""]


def _field_type(message: pb.DescriptorProto, field: pb.FieldDescriptorProto) -> str:
    scalar = pb.FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    kind = _link(field.type_name) if field.type_name else scalar
    for nested in message.nested_type:
        if nested.options.map_entry and field.type_name.endswith(f".{message.name}.{nested.name}"):
            key, value = (_field_type(nested, part) for part in nested.field)
            return f"map of {key} to {value}"
    if field.label == pb.FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {kind}"
    if field.proto3_optional:
        return f"optional {kind}"
    if field.HasField("oneof_index"):
        return f"{kind}, one of `{message.oneof_decl[field.oneof_index].name}`"
    return kind


def _link(type_name: str) -> str:
    name = type_name.rpartition(".")[2]
    return f"[{name}](#{name.lower()})" if type_name.startswith(".ramole.") else type_name.lstrip(".")


def settings_page() -> str:
    """Every setting, a table for each section."""
    lines = [
        "# Settings",
        "",
        "Made from `core/settings.py`. Sources, the first wins: arguments, `RAMOLE_*` variables, the YAML file that",
        "`RAMOLE_CONFIG` names, the defaults. As a variable `gateway.server.port` is `RAMOLE_GATEWAY__SERVER__PORT`.",
        "Anything that is no setting is refused at start.",
        "",
    ]
    tables: dict[Key, list[str]] = {(): []}
    intros: dict[Key, str] = {(): ""}
    for key, field in fields():
        section = section_of(field)
        if section is None:
            tables[key[:-1]].append(_setting_row(key, field))
            continue
        tables[key] = []
        intros[key] = " ".join((field.description or section.__doc__ or "").split())
    for key, rows in tables.items():
        lines += [f"## {'.'.join(key) or 'Top level'}", "", intros[key], ""]
        lines += ["| setting | default | values | meaning |", "|---|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _setting_row(key: Key, field: FieldInfo) -> str:
    default = (
        "" if field.default in (PydanticUndefined, None) else f"`{field.default!s}`" if field.default != "" else "empty"
    )
    return f"| `{key[-1]}` | {_cell(default)} | {_cell(_values(field))} | {_cell(field.description or '')} |"


def _values(field: FieldInfo) -> str:
    if typing.get_origin(field.annotation) is typing.Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(field.annotation))
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    limits = [
        f"{sign} {getattr(rule, name)}"
        for rule in field.metadata
        for name, sign in signs.items()
        if hasattr(rule, name)
    ]
    kind = field.annotation.__name__ if isinstance(field.annotation, type) else str(field.annotation)
    if "'auto'" in kind:
        return ", ".join(["`auto` or a whole number", *limits])
    kind = kind.removesuffix(" | None")
    plain = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "Path": "path"}
    return ", ".join([plain.get(kind, "path" if "Path" in kind else "mapping" if "dict" in kind else "list"), *limits])


def cli_page() -> str:
    """Typer's own page of all commands."""
    command = [
        sys.executable,
        "-m",
        "typer",
        "ramole.cli",
        "utils",
        "docs",
        "--name",
        "ramole",
        "--title",
        "The command line",
    ]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def adr_page(folder: Path) -> str:
    """All decisions, newest first, with what their second paragraph says of date and status."""
    lines = ["# Decisions", "", "| decision | date and status |", "|---|---|"]
    for path in sorted(folder.glob("[0-9]*.md"), reverse=True):
        title, _, rest = path.read_text().partition("\n")
        status = " ".join(rest.strip().split("\n\n")[0].split())
        if not path.name.startswith("0000"):
            lines.append(f"| [{title.lstrip('# ')}]({path.name}) | {_cell(status)} |")
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
