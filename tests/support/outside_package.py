"""The package of docs/extend.md, as a folder."""

from __future__ import annotations

import re
from pathlib import Path

from support import ROOT


def write_package(folder: Path) -> Path:
    """Write every file of the document into a folder, and return it."""
    text = (ROOT / "docs" / "extend.md").read_text()
    for name, content in re.findall(r"```(?:toml|python|yaml)\n# (\S+)\n(.*?)```", text, flags=re.DOTALL):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    (folder / "my_lab" / "__init__.py").touch()
    return folder
