"""A trial on several devices under Ray: one process a device, the trainable's own among them."""

from __future__ import annotations

import datetime
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray.util.placement_group import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cplearn.distributed import Ranks
from cplearn.training import Pack

PATIENCE = datetime.timedelta(seconds=int(os.environ.get("CPLEARN_RANK_TIMEOUT", "1800")))
"""How long a process waits for another one in a step; it must outlast an evaluation, which only the first one does."""

GRACE = 5.0
"""Seconds in which another process' exception may arrive, after a step has failed here."""

Build = Callable[[dict[str, Any], str, Ranks], Pack]
"""Makes the pack of a trainable's configuration on a device."""


class Team:
    """A pack that trains on several processes; to its owner, who is the first of them, it looks like any `Pack`.

    The others are Ray actors in the further bundles of the trial's placement group. They train along and hold nothing
    that the first does not have too. `close` ends them.
    """

    def __init__(self, build: Build, config: dict[str, Any], device: str) -> None:
        self.others: list[Any] = []
        size, group = int(config["ranks"]), get_current_placement_group()
        address = _free_address()
        try:
            for rank in range(1, size):
                place = (
                    PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank) if group else "DEFAULT"
                )
                resources = {"num_cpus": config["cpus"], "num_gpus": config["gpus"]}
                actor = ray.remote(_Rank).options(**resources, scheduling_strategy=place).remote()
                self.others.append(actor)
            ready = [
                actor.start.remote(build, config, rank, size, address)
                for rank, actor in enumerate(self.others, start=1)
            ]
            _join(0, size, address, device)
            self.pack = build(config, device, Ranks(0, size))
            ray.get(ready)
        except BaseException:
            self.close()
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pack, name)

    def train_epoch(self) -> list[tuple[int, dict[str, float]]]:
        """As `Pack.train_epoch`, in all processes."""
        waiting = [actor.train_epoch.remote() for actor in self.others]
        try:
            alive = self.pack.train_epoch()
        except RuntimeError:
            # If another process has failed, its exception is the reason, not that this one has lost it.
            failed, _ = ray.wait(waiting, timeout=GRACE)
            ray.get(failed)
            raise
        ray.get(waiting)
        return alive

    def load_member_states(self, states: Sequence[dict[str, Any]]) -> None:
        """As `Pack.load_member_states`, in all processes."""
        waiting = [actor.load_member_states.remote(states) for actor in self.others]
        self.pack.load_member_states(states)
        ray.get(waiting)

    def close(self) -> None:
        """End the other processes and leave the group."""
        for actor in self.others:
            ray.kill(actor)
        self.others = []
        if dist.is_initialized():
            dist.destroy_process_group()


class _Rank:
    """One of the other processes."""

    def start(self, build: Build, config: dict[str, Any], rank: int, size: int, address: str) -> None:
        torch.set_num_threads(max(1, int(config["cpus"])))
        device = "cuda" if config["gpus"] > 0 and torch.cuda.is_available() else "cpu"
        _join(rank, size, address, device)
        self.pack = build(config, device, Ranks(rank, size))

    def train_epoch(self) -> None:
        try:
            self.pack.train_epoch()
        except BaseException:
            # The others may wait for this process in the middle of a step; without its connections they fail at once.
            dist.destroy_process_group()
            raise

    def load_member_states(self, states: Sequence[dict[str, Any]]) -> None:
        self.pack.load_member_states(states)


def _join(rank: int, size: int, address: str, device: str) -> None:
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=address, rank=rank, world_size=size, timeout=PATIENCE)


def _free_address() -> str:
    """Where the processes meet: a free port of this node, under the address by which the cluster knows it."""
    with socket.socket() as free:
        free.bind(("", 0))
        return f"tcp://{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"
