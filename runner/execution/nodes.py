"""The nodes of a Ray cluster: the code they are sent, and what each of them must have to take part."""

import functools
import hashlib
import importlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cplearn.errors import InputError
from runner.machine.environment import WORKER_ENVIRONMENT
from runner.machine.resources import Resources

CODE = ("cplearn", "sweeps", "runner")  # The packages that workers are sent; what else a node needs is installed there.
EQUAL = ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "pillow")
"""Libraries that have a part in the numbers: a node must have the driver's versions. Their builds (+cpu, +cu128) may
differ, as a driver without a GPU may well use nodes that have some."""
PRESENT = ("pyarrow", "pydantic", "filelock", "joblib", "threadpoolctl")
"""Libraries that workers import but that change no number: a node must have some version of them."""
PATIENCE = 180.0  # Seconds in which a node must have unpacked the code and answered.


class Unfit(Exception):
    """A node cannot take part in the sweep; the arguments are why, and its id."""


def environment(modules: Sequence[str]) -> dict[str, Any]:
    """What Ray gives to the workers of a cluster: the driver's very code, ahead of what may be installed there, and the
    `modules` from outside that its trials name."""
    return {"py_modules": [*(str(_folder(name)) for name in CODE), *modules], "env_vars": WORKER_ENVIRONMENT}


@functools.cache
def facts() -> dict[str, str]:
    """What this machine has of that which all nodes must have: versions of libraries, and a digest of the code: of all
    modules of the packages, and of the tables that lie beside them."""
    digest = hashlib.blake2b(digest_size=16)
    for package in CODE:
        folder = _folder(package)
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".py", ".txt", ".yaml"):
                digest.update(f"{package}/{path.relative_to(folder)}\0".encode() + path.read_bytes())
    versions = {}
    for library in (*EQUAL, *PRESENT):
        with suppress(metadata.PackageNotFoundError):
            versions[library] = metadata.version(library).partition("+")[0]
    return {"code": digest.hexdigest(), **versions}


def differences(driver: Mapping[str, str], here: Mapping[str, str], folder: Path) -> str:
    """Why a node with the facts `here`, and its code in `folder`, cannot train for a driver; empty if it can.

    >>> differences({"code": "1", "torch": "2.9.0"}, {"code": "1", "torch": "2.8.0"}, Path("/x")).partition(";")[0]
    "torch there is 2.8.0, the driver's is 2.9.0"
    """
    lacking = [library for library in driver if library not in here]
    reasons = [f"{', '.join(lacking)} cannot be found there"] if lacking else []
    if here["code"] != driver["code"]:
        reasons.append(f"the code in {folder} there is not the driver's")
    for library in EQUAL:
        if library in driver and here.get(library, driver[library]) != driver[library]:
            reasons.append(f"{library} there is {here[library]}, the driver's is {driver[library]}")
    remedy = "give it the driver's environment, for instance one on a shared file system"
    return "; ".join([*reasons, remedy]) if reasons else ""


def check(driver: Mapping[str, str]) -> None:
    """Raise Unfit if this process cannot train for a driver with such facts; it has none if it is on this machine."""
    if driver and (why := differences(driver, facts(), program_folder())):
        raise Unfit(why, node_id())


def node_id() -> str:
    """The id of the node that this process runs on; empty without Ray."""
    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""


class Nodes:
    """The nodes that a sweep uses. Where Ray is the driver's own, its node is not asked.

    `driver` has the facts to compare with, if any. `left_out` has sentences that say why nodes, by id, take no part;
    `unreported` those of them that nobody has been told. `slots` says how many trials run at once.
    """

    def __init__(self, ray_is_own: bool) -> None:
        self.driver = {} if ray_is_own else facts()
        self.left_out: dict[str, str] = {}
        self.unreported: list[str] = []
        self.asked: set[str] = set()
        self.slots = 0

    def alive(self) -> list[dict[str, float]]:
        """The resources of the nodes that are alive and take part."""
        return [node["Resources"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in self.left_out]

    def fit(self, resources: Resources) -> Resources:
        """`resources` with the number of GPUs settled; counts the slots as `ask` does."""
        resources = resources.settle(any(node.get("GPU", 0) for node in self.alive()))
        self._count_slots(resources)
        self.ask(resources)
        return resources

    def ask(self, resources: Resources) -> None:
        """Leave out nodes that could hold a process of a trial, but cannot train; each is asked once. Counts the slots
        of the others; raises InputError if there are none."""
        calls = {}
        for node in ray.nodes() if self.driver else ():
            room = all(node["Resources"].get(kind, 0) >= need for kind, need in resources.each.items())
            if node["Alive"] and room and node["NodeID"] not in self.asked | self.left_out.keys():
                place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                calls[node["NodeID"]] = _answer.options(scheduling_strategy=place).remote(self.driver)
        if calls:
            ray.wait(list(calls.values()), num_returns=len(calls), timeout=PATIENCE)
        for node_id, call in calls.items():
            self.asked.add(node_id)
            try:
                if why := ray.get(call, timeout=0):
                    self.leave_out(node_id, why)
            except GetTimeoutError:
                self.leave_out(node_id, f"it has not answered for {PATIENCE:.0f} seconds")
            except RayError as error:
                last_line = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
                self.leave_out(node_id, f"it cannot run the code ({last_line})")
        self._count_slots(resources)

    def leave_out(self, node_id: str, why: str) -> None:
        """Use a node no more."""
        if node_id not in self.left_out:
            self.left_out[node_id] = f"node {name_of(node_id)} is left out: {why}"
            self.unreported.append(self.left_out[node_id])

    def selector(self, processes: int) -> dict[str, Any]:
        """Arguments of a placement group by which its bundles avoid the nodes that are left out."""
        if not self.left_out:
            return {}
        return {"bundle_label_selector": [{"ray.io/node-id": f"!in({','.join(sorted(self.left_out))})"}] * processes}

    def _count_slots(self, resources: Resources) -> None:
        try:
            self.slots = resources.slots(self.alive())
        except InputError:
            if not self.left_out:
                raise
            raise InputError(f"no node is left that can hold a trial; {'; '.join(self.left_out.values())}") from None


@ray.remote(num_cpus=0, max_retries=0)
def _answer(driver: dict[str, str]) -> str:
    return differences(driver, facts(), program_folder())


@functools.cache
def name_of(node_id: str) -> str:
    """What people call a node: the name it was started with, else its host's."""
    for node in (node for node in ray.nodes() if node["NodeID"] == node_id):
        named = node["NodeName"] not in ("", node["NodeManagerAddress"])
        return str(node["NodeName"] if named else node["NodeManagerHostname"])
    return node_id


def program_folder() -> Path:
    """The folder of this program's packages."""
    return _folder(CODE[0]).parent


def _folder(package: str) -> Path:
    path = importlib.import_module(package).__file__
    assert path
    return Path(path).parent
