"""Sweep files and values on a command line as YAML: read safely, whatever is in them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

from sweeps.errors import UserError, nearest

LARGEST = 1_000_000  # Bytes of a file.


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


def parse_override(text: str, option: str = "--set") -> tuple[str, Any]:
    """`key=value` as given on a command line; the value is YAML. Raises UserError if it is not of that form."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"{option} {text!r}: write it as key=value, for instance epochs=50")
    try:
        return key.strip(), yaml.load(value, Loader=Loader)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UserError(f"{option} {text!r}: the value is not valid YAML") from None


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which also reads 1e-3 as a number and refuses a key that is written twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice!r} is written twice", node.start_mark)
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: Any, index: Any) -> Any:
        # Sweep files need no aliases, and nested ones expand to gigabytes.
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not allowed", event.start_mark)
        return super().compose_node(parent, index)


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load(path: Path, kind: str = "a sweep file") -> dict[str, Any]:
    """The group of keys in a YAML file of this kind. Raises UserError with one sentence where there is none."""
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: not a file; {kind} is a short text in YAML")
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        text = content.decode("utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such sweep file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    if len(content) > LARGEST:
        raise UserError(f"{path}: larger than {LARGEST:,} bytes; {kind} is a short text")
    try:
        document = yaml.load(text, Loader=Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        deep = "nested too deeply" if isinstance(error, RecursionError) else None
        raise UserError(f"{path}: not valid YAML{where}: {deep or getattr(error, 'problem', None) or error}") from None
    if not isinstance(document, dict):
        raise UserError(
            f"{path}: {kind} is a group of keys (sweep, settings, axes, ...), not {type(document).__name__}"
        )
    return document
