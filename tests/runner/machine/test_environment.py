"""The memory of processes that train."""

import os
import subprocess
import sys

import pytest

CODE = """
import resource
from runner.machine.environment import keep_memory
{call}
size = 26
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * 2**size
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(), faults(), faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's own settings")
def test_memory_that_is_kept_needs_no_fresh_pages() -> None:
    """64 MiB that are freed and asked for again: pages that the system has to hand out each time."""
    # A worker of the tests may itself have been started with such settings.
    environment = {name: text for name, text in os.environ.items() if not name.startswith("MALLOC_")}
    kept, given_back = (
        list(map(int, subprocess.check_output([sys.executable, "-c", CODE.format(call=call)], env=environment).split()))
        for call in ("keep_memory()", "")
    )
    assert min(kept[0], *given_back) > 100
    assert max(kept[1:]) < min(given_back) / 10
