"""The command `cplearn`, under a name that no module of a user has."""

import os
import sys
from pathlib import Path


def main() -> None:
    """Run the command line of this installation, whatever lies on PYTHONPATH under the names of its packages."""
    if folders := os.environ.get("PYTHONPATH"):
        here = str(Path(__file__).resolve().parent)
        sys.path.insert(0, here)
        os.environ["PYTHONPATH"] = os.pathsep.join([here, folders])  # For child processes.
    from runner import cli

    cli.main()
