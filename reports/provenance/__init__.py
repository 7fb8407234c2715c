"""From a written table back to its runs: what it was made of, whether it still holds, and which runs are behind a cell.

`build` and the command line may import it. It reads runs through `reports.store` only, and writes nothing.
"""

from reports.provenance.tracing import to_text, trace
from reports.provenance.verification import verify

__all__ = ["to_text", "trace", "verify"]
