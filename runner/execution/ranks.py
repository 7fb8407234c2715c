"""The training that a request asks for: in one process, or in one a device, of which the first is the worker."""

import copy
import datetime
import functools
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ray
import torch
import torch.distributed as dist
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from threadpoolctl import threadpool_limits

import cplearn.data
from cplearn.config.trial import TrialSettings
from cplearn.distributed import Ranks
from cplearn.errors import InputError
from cplearn.evaluate import protocol
from cplearn.training import TrialTraining
from runner.execution import nodes
from runner.execution.contract import TrialRequest

PATIENCE = datetime.timedelta(seconds=int(os.environ.get("CPLEARN_RANK_TIMEOUT") or "1800"))
"""How long a process waits for another one that hangs in a step; what fails is noticed at once (see `Team`)."""
JOINING = datetime.timedelta(minutes=5)
"""How long the processes wait for each other to form a group, once all of them have started."""
GRACE = 5.0  # Seconds in which the cause of a failure may show, after the first process has failed for want of another.

T = TypeVar("T")


class ProcessLost(RuntimeError):
    """A process of a trial has died, or its node: a failure of the machine, not of the trial."""


def build(request: TrialRequest, device: str, ranks: Ranks) -> TrialTraining:
    """The training that a request asks for, or the part of it that one of several processes has.

    Raises Unfit where this node has not the driver's code, libraries or data.
    """
    nodes.check(request.driver)
    # On a cluster the folder that CPLEARN_DATA named when the node's Ray was started, else the driver's.
    folder = (os.environ.get("CPLEARN_DATA") if request.driver else None) or request.options.data_root
    root = Path(folder) if folder else None
    try:
        trial = TrialSettings.read(dict(request.settings))
        code = trial.code_from_outside()
        if code != request.code:
            changed = ", ".join(
                name.rpartition(" ")[2] for name in request.code if request.code[name] != code.get(name)
            )
            raise InputError(f"the code of {changed} there is not what the driver has; install the same")
        dataset = cplearn.data.load(**trial.data_request(), root=root)
        others = protocol.load_transfer(trial, dataset.image_size, root)
        for (name, fingerprint), data in zip(request.data, [dataset, *others], strict=True):
            if data.fingerprint != fingerprint:
                raise InputError(
                    f"the images or labels of {name} there differ from the driver's; copy the same files there"
                )
    except InputError as error:
        raise nodes.Unfit(str(error), nodes.node_id()) from None
    return TrialTraining(trial, dataset, device, compile=request.options.compile, data_root=root, ranks=ranks)


def prepare(request: TrialRequest) -> str:
    """The device of each process of a trial, cpu or cuda. Torch and NumPy get as many threads as it has CPUs."""
    resources = request.options.resources
    # Without a limit, each of several workers on a machine starts a thread for every core.
    threads = max(1, int(resources.cpus))
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    return "cuda" if resources.gpus and torch.cuda.is_available() else "cpu"


class Team:
    """A trial that trains on several processes; its owner, who is the first of them, uses it like a lone training.

    The others are Ray actors in the further bundles of the trial's placement group, and train along. If one raises or
    dies, the first would wait for it in the middle of a step; so a thread watches the others, and ends them all. What a
    process raises is raised here, and ProcessLost if one has died.
    """

    def __init__(self, request: TrialRequest, device: str) -> None:
        self.others: list[Any] = []
        resources, group = request.options.resources, get_current_placement_group()
        size = resources.processes
        try:
            room = {"num_cpus": resources.cpus, "num_gpus": resources.each.get("GPU", 0.0)}
            for rank in range(1, size):
                place = PlacementGroupSchedulingStrategy(group, rank) if group else "DEFAULT"
                actor = ray.remote(_Rank).options(**room, scheduling_strategy=place).remote(request, rank, size)
                self.others.append(actor)
            # Who waits in a group cannot be told that another process does not even start.
            self._together("__ray_ready__", lambda: None)
            host = ray.util.get_node_ip_address()
            store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=JOINING)
            self._together("join", lambda: _join(0, size, store, device), host, store.port)
            self.training = self._together("build", lambda: build(request, device, Ranks(0, size)))
        except BaseException:
            self.close()
            raise

    def __getattr__(self, name: str) -> Any:
        if name == "training":  # It is not there yet; looking it up in itself would never end.
            raise AttributeError(name)
        return getattr(self.training, name)

    def train_epoch(self) -> dict[str, float]:
        return self._together("call", self.training.train_epoch, "train_epoch")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._together("call", lambda: self.training.load_state_dict(state), "load_state_dict", state)

    def close(self) -> None:
        """End the other processes and leave the group."""
        self._end_others()
        if dist.is_initialized():
            dist.destroy_process_group()

    def _together(self, method: str, here: Callable[[], T], *arguments: Any) -> T:
        """What `here` returns in this process, while the others do `method`; raises what the first to fail raised."""
        calls = [getattr(actor, method).remote(*arguments) for actor in self.others]
        failures: list[Exception] = []
        watch = threading.Thread(target=self._watch, args=(calls, failures), daemon=True)
        watch.start()
        try:
            result = here()
        except Exception as error:
            # Perhaps only because another process has gone.
            watch.join(2 * GRACE)
            if not failures:
                raise
            raise _cause(failures) from error
        watch.join()
        if failures:
            raise _cause(failures)
        return result

    def _watch(self, calls: Sequence[Any], failures: list[Exception]) -> None:
        """Wait for all calls; if one fails, note why and end the other processes, which frees this one."""
        waiting = list(calls)
        while waiting:
            done, waiting = ray.wait(waiting)
            if error := _error(done[0]):
                # A process that died makes others fail for want of it, maybe before its own death is known.
                ended, _ = ray.wait(waiting, num_returns=len(waiting), timeout=GRACE) if waiting else ([], [])
                failures += [error, *filter(None, map(_error, ended))]
                self._end_others()
                if dist.is_initialized() and dist.get_backend() == "nccl" and dist.group.WORLD is not None:
                    # gloo notices closed connections; NCCL has to be told.
                    dist.group.WORLD.abort()
                return

    def _end_others(self) -> None:
        others, self.others = self.others, []
        for actor in others:
            ray.kill(actor)


def _readable(method: Callable[..., None]) -> Callable[..., None]:
    """What a method raises can be read elsewhere: of an error that cannot be pickled its kind and text are raised. The
    first process would else take this one for lost."""

    @functools.wraps(method)
    def call(*arguments: Any) -> None:
        try:
            method(*arguments)
        except Exception as error:
            try:
                copy.deepcopy(error)
            except Exception:
                raise RuntimeError(f"{type(error).__name__}: {error}") from error
            raise

    return call


class _Rank:
    """One of the other processes."""

    def __init__(self, request: TrialRequest, rank: int, size: int) -> None:
        self.request, self.rank, self.size = request, rank, size

    @_readable
    def join(self, host: str, port: int) -> None:
        self.device = prepare(self.request)
        store = dist.TCPStore(host, port, is_master=False, timeout=JOINING)
        _join(self.rank, self.size, store, self.device)

    @_readable
    def build(self) -> None:
        self.training = build(self.request, self.device, Ranks(self.rank, self.size))

    @_readable
    def call(self, method: str, *arguments: Any) -> None:
        """Call a method of the training; what it returns is the first process's affair."""
        getattr(self.training, method)(*arguments)


def _join(rank: int, size: int, store: dist.Store, device: str) -> None:
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)


def _error(call: Any) -> Exception | None:
    try:
        ray.get(call)
    except Exception as error:
        return error
    return None


def _cause(failures: Sequence[Exception]) -> Exception:
    """The failure behind the others: the death of a process if there is one, else the first that was seen."""
    # What the code of a process raised comes as a RayTaskError; other errors of Ray say that the process has gone.
    deaths = [error for error in failures if isinstance(error, RayError) and not isinstance(error, RayTaskError)]
    return ProcessLost(f"a process of the trial was lost: {deaths[0]}") if deaths else failures[0]
