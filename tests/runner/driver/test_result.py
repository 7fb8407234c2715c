"""What a call says before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.driver import result
from runner.driver.result import SweepSurvey
from runner.machine.resources import Resources, bfloat16_unit
from runner.planning.plan import SCHEMA, make_plan
from runner.timing.forecast import Machine, forecast
from sweeps.spec import read_sweep

FLAGS = "flags : fpu avx2 avx512f avx512_bf16"


@pytest.mark.parametrize(
    ("precision", "flags", "device", "said"),
    [
        ("float32", f"{FLAGS} amx_bf16 amx_tile", "cpu", "AMX"),
        ("float32", FLAGS, "cpu", "AVX-512 BF16"),
        ("float32", "flags : fpu avx2", "cpu", ""),
        ("bfloat16", FLAGS, "cpu", ""),
        ("float32", FLAGS, "cuda", ""),
    ],
)
def test_what_a_processor_could_do_is_said_where_no_trial_asks_for_it(
    precision: str, flags: str, device: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processor's flags are those that Linux would say of it."""
    monkeypatch.setattr(result, "bfloat16", lambda: bfloat16_unit(flags))
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"sweep: tiny\nsettings: {{precision: {precision}}}\nbaselines: {{random: {{method: untrained}}}}\n"
    )
    plan = make_plan(read_sweep(path, SCHEMA), tmp_path)
    machine = Machine(Resources(1, 0), 2, {"device": device, "threads": "1", "ranks": "1"}, 1e10)
    survey = SweepSurvey(plan, [], set(), [], forecast(plan, plan.jobs, machine, lambda method, fingerprint: []))
    assert (f"This processor has {said}: with --set precision=bfloat16" in str(survey)) == bool(said)
    assert bool(survey.unused) == bool(said)
