"""Sweep files, table files and values on a command line as YAML: read safely, whatever is in them.

The scalars are those of YAML 1.2's core schema: `1e-1` is a number, `0o10` is eight, `on`, `off`, `yes` and `no` are
words. What an author cannot have meant is refused with its key and line: numbers with a leading zero, which YAML 1.1
takes for octal ones, keys that are written twice, anchors, aliases and tags of other types.
"""

import json
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from sweeps.errors import UserError, nearest

LARGEST = 250_000  # Bytes of a file.
DEEPEST = 50  # Groups and lists inside of each other.
WIDEST = 2**64  # What no seed, count or size reaches.
TAG = "tag:yaml.org,2002:"
FORMS = {
    "null": re.compile(r"~|null|Null|NULL|"),
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "int": re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"),
    "float": re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
    "str": re.compile(r"(?s:.*)"),
}
"""Types of plain scalars by their spelling; the first that fits counts."""


def find(name: str) -> Path:
    """The sweep file of a path, or of a name, `beta` say: NAME.yaml in `sweeps` or `sweeps/presets`, below the working
    directory or as installed. A file of that path wins. Raises UserError, with the nearest name, where there is none.

    >>> find("beta").name
    'beta.yaml'
    >>> find("of/my/own.yaml").as_posix()
    'of/my/own.yaml'
    """
    path = Path(name)
    if os.path.isfile(name) or path.suffix in (".yaml", ".yml") or len(path.parts) != 1:
        return path
    shipped = Path(__file__).parent
    folders = (Path("sweeps"), Path("sweeps/presets"), shipped, shipped / "presets")
    known = {file.stem: file for folder in reversed(folders) for file in sorted(folder.glob("*.yaml"))}
    if name not in known:
        hint = nearest(name, sorted(known))
        raise UserError(f"no sweep {name!r} ({hint}); a sweep of your own is given by the path of its YAML file")
    return known[name]


def parse_override(text: str, option: str = "--set", words: Collection[str] = ()) -> tuple[str, Any]:
    """`key=value` as given on a command line; the value is YAML, of the keys `words` a word without quotes too.
    Raises UserError if it is not of that form.

    >>> parse_override("method.beta=[1e-1, off]")
    ('method.beta', [0.1, 'off'])
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"{option} {text!r}: write it as key=value, for instance epochs=50")
    key = key.strip()
    is_word = key in words and not value.lstrip().startswith(('"', "'"))
    return key, value.strip() if is_word else parse(value, f"{option} {text!r}")


def load(path: Path, kind: str = "a sweep file") -> dict[str, Any]:
    """The group of keys in a YAML file of this kind. Raises UserError with one sentence where there is none."""
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: not a file; {kind} is a short text in YAML")
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such sweep file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    if len(content) > LARGEST:
        raise UserError(f"{path}: larger than {LARGEST:,} bytes; {kind} is a short text")
    document = parse(text, str(path))
    if not isinstance(document, dict):
        raise UserError(
            f"{path}: {kind} is a group of keys (sweep, settings, axes, ...), not {type(document).__name__}"
        )
    return document


def parse(text: str, whose: str) -> Any:
    """The value of a text in YAML; raises UserError, with `whose` and the line, where it is not valid or is refused."""
    try:
        return yaml.load(text, Loader=Loader)
    except Refusal as refusal:
        where = f", line {refusal.line}" if "\n" in text else ""
        raise UserError(f"{whose}{where}: {refusal.problem}") from None
    # Escapes such as "\\UFFFFFFFF" that are no characters raise what Python raises.
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark and "\n" in text else ""
        raise UserError(f"{whose}: not valid YAML{where}: {getattr(error, 'problem', None) or error}") from None


def read_json(text: str | bytes, whose: str) -> Any:
    """The value of a text in JSON, with a byte-order mark or without; raises UserError, with `whose`, if it is none."""
    try:
        return json.loads(text.decode("utf-8-sig") if isinstance(text, bytes) else text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{whose}: cannot be read as JSON ({error})") from None


class Refusal(yaml.MarkedYAMLError):
    """Something that is valid YAML and cannot be meant."""

    def __init__(self, problem: str, place: Any) -> None:
        super().__init__(problem=problem, problem_mark=place.start_mark)
        self.line: int = place.start_mark.line + 1


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with the types of YAML 1.2's core schema and no others."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        # Sweep files need no aliases, and nested ones expand to gigabytes.
        if getattr(event, "anchor", None) is not None:
            raise Refusal("anchors (&name) and aliases (*name) are not allowed; write the value out", event)
        if self.depth == DEEPEST:
            raise Refusal(f"nested too deeply: at most {DEEPEST} groups and lists inside of each other", event)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        if kind is not yaml.ScalarNode:
            return TAG + ("seq" if kind is yaml.SequenceNode else "map")
        return TAG + (next(name for name, form in FORMS.items() if form.fullmatch(value)) if implicit[0] else "str")

    def construct_document(self, node: Any) -> Any:
        return _value(node, "")


def _value(node: yaml.Node, key: str) -> Any:
    """What a node stands for; `key` is the dotted name of its place. Raises Refusal."""
    name, where = node.tag.removeprefix(TAG), f"{key}: " if key else ""
    if isinstance(node, yaml.SequenceNode) and name == "seq":
        return [_value(item, key) for item in node.value]
    if isinstance(node, yaml.MappingNode) and name == "map":
        group: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise Refusal(f"{where}a key must be a word, not a list or a group", key_node)
            inner = _value(key_node, key)
            if inner in group:
                raise Refusal(f"{where}key {key_node.value!r} is written twice", key_node)
            group[inner] = _value(value_node, f"{key}.{inner}" if key else str(inner))
        return group
    if not isinstance(node, yaml.ScalarNode) or name not in FORMS:
        raise Refusal(f"{where}the tag {node.tag.replace(TAG, '!!')} is not allowed here", node)
    return _scalar(name, node.value, where, node)


def _scalar(name: str, text: str, where: str, node: yaml.Node) -> bool | int | float | str | None:
    """The value of a plain text as one of FORMS. Raises Refusal."""
    if not FORMS[name].fullmatch(text):
        raise Refusal(f"{where}{text!r} is not of the type that its tag names, {name}", node)
    if name == "null":
        return None
    if name == "bool":
        return text.lower() == "true"
    if name == "float":
        return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
    if name == "str":
        if re.search("[\0\ud800-\udfff]", text):
            raise Refusal(f"{where}{text!r} has signs in it that no text has", node)
        return text
    value = int(text, {"0o": 8, "0x": 16}.get(text[:2], 10)) if len(text) < 100 else WIDEST
    if abs(value) >= WIDEST:
        raise Refusal(f"{where}{text[:50]} has more than 64 bits; write 1.0e30 for instance, or a word in quotes", node)
    if re.fullmatch("[-+]?0[0-9]+", text):
        raise Refusal(f'{where}{text} has a leading zero; write {value} or "{text}"', node)
    return value
