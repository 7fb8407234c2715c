"""The loss over dictionaries of 128 to 524,288 codes, streamed and materialised: time and memory."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.measure import Goal, Pair, Part, alternate, calls_lasting, seconds
from cplearn.dictionary.loss import dictionary_loss
from cplearn.dictionary.signs import rademacher
from cplearn.methods.cplearn import embedding, temperature
from runner.machine.environment import in_worker

SIZES = (128, 1024, 4096, 8192, 16384, 32768, 65536, 524288)
LENGTHS = (128, 384)
VIEWS, BATCH = 2, 64
MEMORY_GOAL, TIME_GOAL = Goal("at most", 1 / 20), Goal("at most", 0.6)
AUTOMATIC_GOAL = Goal("at most", 1.1)
WAYS = {"streamed": True, "materialised": False, "automatic": None}


def run(quick: bool) -> Part:
    """Time and memory of loss and gradient, streamed over materialised, and the automatic choice over the better."""
    threads = min(2, os.cpu_count() or 1)
    sizes, repeats = ((128, 1024), 2) if quick else (SIZES, 5)
    return Part(
        "The dictionary, streamed over materialised",
        f"One loss with its gradient, 2x64 views, float32, {threads} threads, CPU. Time: milliseconds of a call; the "
        "three ways take turns, each turn repeating calls for about 0.3 s or once. Memory: the peak of tensor "
        "memory allocated during a call, beyond embeddings and dictionary, added up from each allocation and "
        "release that PyTorch's profiler reports; buffers inside the matrix library are not seen. The automatic "
        "choice counts as no slower than the better of the two up to a ratio of 1.1, for noise.",
        [row for length in LENGTHS for size in sizes for row in in_worker(compare, size, length, repeats, threads)],
    )


def compare(size: int, length: int, repeats: int, threads: int) -> list[Pair]:
    """Time, memory and automatic choice for `size` codes of `length`."""
    torch.set_num_threads(threads)
    calls = {name: _loss(size, length, stream) for name, stream in WAYS.items()}
    sides = {name: _timed(call) for name, call in calls.items()}
    times = alternate(sides, repeats)
    peaks = {name: [peak_bytes(calls[name]) / 2**20] for name in ("streamed", "materialised")}
    better = min(("streamed", "materialised"), key=lambda name: statistics.median(times[name]))
    largest = size == SIZES[-1] and length == LENGTHS[-1]
    label, names = f"c = {size:,}, f = {length}", ("streamed", "materialised")
    time_goal, memory_goal = (TIME_GOAL, MEMORY_GOAL) if largest else (None, None)
    return [
        Pair(f"{label}: time", "ms", names, times["streamed"], times["materialised"], time_goal),
        Pair(f"{label}: memory", "MiB", names, peaks["streamed"], peaks["materialised"], memory_goal),
        Pair(f"{label}: choice", "ms", ("automatic", better), times["automatic"], times[better], AUTOMATIC_GOAL),
    ]


def _loss(size: int, length: int, stream: bool | None) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(0)
    dictionary = rademacher(size, length, generator)
    normed = torch.randn(VIEWS, BATCH, length, generator=generator)
    h = embedding(normed, "l2") / temperature(length, BATCH, size, 1e-8)
    return partial(_call, h.requires_grad_(), dictionary, stream)


def _call(h: Tensor, dictionary: Tensor, stream: bool | None) -> None:
    loss, _ = dictionary_loss(h, dictionary, 1.0, stream=stream)
    loss.backward()
    h.grad = None


def _timed(call: Callable[[], None]) -> Callable[[], float]:
    calls = calls_lasting(call, 0.3)
    return lambda: seconds(call, calls) * 1000


def peak_bytes(call: Callable[[], object]) -> int:
    """The most bytes of CPU tensors that `call` holds at once beyond those that were there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    assert recorded.profiler is not None
    events = recorded.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak
