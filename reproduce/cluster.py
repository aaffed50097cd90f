"""Trials as tasks of a Ray cluster: one that is there, or one on this machine for as long as a command lasts.

What decides a trial's numbers is the nodes', not this process's: all of them are asked first, and have to agree. Trials
whose worker or node is lost run again elsewhere.
"""

import functools
import hashlib
import logging
import os
import platform
import secrets
import signal
import socket
import tempfile
import time
import uuid
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from reproduce import places, provenance
from reproduce.errors import ClusterLostError, TrackingError, UserError
from reproduce.plain import printable, without_credentials
from reproduce.progress import say
from reproduce.trial import Trial

LOCAL = "local"
CONNECT_SECONDS = 10  # to wait for somebody at an address
LOOK_SECONDS = 1  # between two looks at the tasks and, where nothing comes, at the cluster itself
GONE_SECONDS = 30  # without the head: Ray itself would end this process after 60, in its own way
CANCEL_SECONDS = 10
AT_ONCE = 1000  # trials asked for at a time: an autoscaler sees what there is to do, and looking at them stays cheap
WORKER_DEATHS, NODE_DEATHS = 2, 10  # after which a trial is given up; to lose a node is not its own fault
TOKEN, STALE_SECONDS = ".seen-by-", 24 * 3600
OBJECT_STORE_BYTES = 80 * 2**20  # nothing but numbers goes through it
# Ray's news, advice and warnings are kept out of what a command says, unless the environment asks for them.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_SCHEDULER_EVENTS": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
PASSED_ON = ("REPRODUCE_STORE_PATIENCE",)  # to workers; secrets are the nodes' own, as Ray shows what it passes on
IMPATIENT = {"RAY_NUM_REDIS_GET_RETRIES": "1", "RAY_py_gcs_connect_timeout_s": "15"}  # else minutes at a wrong address


@dataclass(frozen=True)
class Wanted:
    """What every node has to be ready for."""

    home: Path
    dataset: str
    data_dir: Path | None
    engine: str
    device: str


@dataclass(frozen=True)
class Ready:
    """What a node is ready with, and what it said meanwhile."""

    engine: str
    kernel: Path | None
    surroundings: dict[str, str]
    said: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """A node's: it is ready, or has some trouble. `package` is the digest of this package there."""

    package: str
    cpu: str
    shares_home: bool
    ready: Ready | None = None
    trouble: str = ""


@dataclass(frozen=True)
class Seen:
    """How a node finds out whether it sees what the command sees."""

    uri: str
    shown_uri: str
    experiment_id: str
    created_at: int
    home_id: str
    tokens: dict[str, Path]  # files that are there while the command runs


@contextmanager
def connect(address: str | None, jobs: int | None, gpus_per_trial: float) -> Iterator["Cluster"]:
    """The cluster at that address, HOST:PORT; None is the one that was started on this machine.

    Where there is none, and for `local`, Ray is started on this machine, and stopped in the end. UserError where nobody
    answers, or not as a Ray cluster.
    """
    found = address or _started_here() or LOCAL
    if found != LOCAL and (why := _silent(found)) is not None:
        raise UserError(
            f"--ray-address {found}: nobody answers there ({why}); expected the head of a Ray cluster: start one with "
            "ray start --head, or leave the option and RAY_ADDRESS out"
        )
    for name, value in (QUIET if found == LOCAL else QUIET | IMPATIENT).items():
        os.environ.setdefault(name, value)
    _choose_token(found)
    import ray

    # The only way to keep what a cluster says of lost workers and nodes off the standard output: we say it ourselves.
    ray._private.worker._worker_logs_enabled = False
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    before = signal.getsignal(signal.SIGTERM)
    with ExitStack() as stack:
        if found == LOCAL:
            folder = stack.enter_context(_short_folder())
            cores = provenance.cores()
            say(f"starting Ray on this machine, with {cores} cores, for this command")
            quiet |= {"num_cpus": cores, "include_dashboard": False, "_temp_dir": folder,
                      "object_store_memory": OBJECT_STORE_BYTES}  # fmt: skip
        stack.callback(ray.shutdown)
        try:
            with _silence():
                ray.init(address=found, **quiet)
        except Exception as error:
            raise UserError(_refusal(found, error)) from error
        finally:
            signal.signal(signal.SIGTERM, before)  # Ray has its own, which ends a process in another way
        head = ray.get_runtime_context().gcs_address
        yield Cluster(ray, stack, head, jobs, gpus_per_trial)


def _started_here() -> str | None:
    """The address of the cluster that `ray start` began on this machine, if it is still there."""
    folder = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir()), "ray")
    with suppress(OSError):
        address = (folder / "ray_current_cluster").read_text().strip()
        if address and _silent(address) is None:
            return address
    return None


def _silent(address: str) -> str | None:
    """Why nobody answers at the address; None where somebody does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        return error.strerror or str(error)
    return None


def _choose_token(address: str) -> None:
    """Have this process show Ray's token where there is one; what it starts itself asks for one that nobody knows."""
    if "RAY_AUTH_MODE" in os.environ:
        return
    if address == LOCAL:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    elif {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys() or Path(
        "~/.ray/auth_token"
    ).expanduser().exists():
        os.environ["RAY_AUTH_MODE"] = "token"  # as `ray start` does, and ray.init does not


@contextmanager
def _short_folder() -> Iterator[str]:
    """For Ray's sockets, whose names may have 107 letters."""
    folder = tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True)
    with folder as name:
        yield name


@contextmanager
def _silence() -> Iterator[None]:
    """Without what Ray's own threads write to the standard error, past Python."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _refusal(address: str, error: BaseException) -> str:
    said, cause = [], error
    while cause is not None:
        said.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    if address == LOCAL:
        return f"Ray cannot be started on this machine: {_brief(error)}: use --executor local"
    if any("InvalidAuthToken" in text for text in said):
        return (
            f"--ray-address {address}: the cluster asks for another token than this machine has: have RAY_AUTH_TOKEN "
            "or ~/.ray/auth_token hold the cluster's, and RAY_AUTH_MODE say token"
        )
    why = next((text for text in said if "ersion mismatch" in text), "what answers there is no head of a Ray cluster")
    return f"--ray-address {address}: {printable(why)[:300]}; expected HOST:PORT of one with this version of Ray"


def _brief(error: BaseException) -> str:
    return printable(without_credentials(str(error) or type(error).__name__))[:300]


class Cluster:
    """A Ray cluster that this process is connected to, for as long as `connection` is open.

    `jobs` bounds the trials that are asked for at a time.
    """

    def __init__(self, ray: Any, connection: ExitStack, head: str, jobs: int | None, gpus_per_trial: float) -> None:
        self._ray, self._connection, self._head = ray, connection, head
        self.jobs, self.gpus_per_trial = jobs or AT_ONCE, gpus_per_trial
        self._epochs: dict[Trial, int] = {}
        self._away_since: float | None = None

    def device(self, wanted: str) -> str:
        """The kind of device that trials run on: a GPU where a node has one, unless the CPU is wanted."""
        if wanted == "cpu" or (wanted == "auto" and not self._nodes("cuda")):
            return "cpu"
        if not self._nodes("cuda"):
            raise UserError(
                "--device cuda: no node of the Ray cluster has a GPU to give; start one with ray start "
                "--address=… --num-gpus=1, or leave --device out to compute on CPUs"
            )
        return "cuda"

    def _nodes(self, device: str) -> dict[str, str]:
        """Of the nodes that are there and have something to compute on the name, by id."""
        resource = "GPU" if device == "cuda" else "CPU"
        return {
            node["NodeID"]: _name(node)
            for node in self._ray.nodes()
            if node["Alive"] and node["Resources"].get(resource, 0) > 0
        }

    def prepare(self, store: Any, wanted: Wanted) -> str:
        """Have every node ready for the trials, and say which engine they have; UserError where one cannot be.

        They all have to see the store that the command sees, and to be of one kind.
        """
        self._store, self._wanted = store, wanted
        nodes = self._nodes(wanted.device)
        if not nodes:
            raise UserError(
                f"no node of the Ray cluster at {self._head} has a CPU to give: start one with ray start --address=…, "
                "or where nodes come on demand keep one of them"
            )
        self._seen = self._connection.enter_context(_to_be_seen(store))
        self._settings = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}  # as in the pool of this machine
        self._settings |= {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        if wanted.device == "cpu":
            self._settings["CUDA_VISIBLE_DEVICES"] = ""  # or Colossal-AI would take a GPU that is there
        answers = self._ask(nodes)
        for name, answer in answers.items():
            if answer.trouble:
                raise UserError(f"node {name} of the Ray cluster: {answer.trouble}")
        _check_alike(answers)
        first = next(iter(answers.values())).ready
        for line in dict.fromkeys(line for answer in answers.values() for line in answer.ready.said):
            say(line)
        if len({answer.cpu for answer in answers.values()}) > 1:
            kinds = "; ".join(f"{name}: {answer.cpu}" for name, answer in answers.items())
            say(f"the nodes' processors differ, and the last bits may with them: {kinds}")
        say(f"Ray cluster at {self._head}: {len(answers)} node{'s' * (len(answers) > 1)} to train on")
        if not all(answer.shares_home for answer in answers.values()):
            say(f"{store.home} is not the same directory on all of them: a trial that loses its node begins anew")
        self._surroundings = first.surroundings
        return first.engine

    def _ask(self, nodes: dict[str, str]) -> dict[str, Answer]:
        """Every node's answer by its name. A node that goes away meanwhile is none of them."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        ray = self._ray
        asked = {}
        for node_id, name in nodes.items():
            here = NodeAffinitySchedulingStrategy(node_id, soft=False)
            probe = ray.remote(_answer).options(num_cpus=0, max_retries=0, scheduling_strategy=here, name="prepare")
            asked[name if name not in asked else f"{name} {node_id[:8]}"] = probe.remote(
                self._settings, str(Path.cwd()), self._wanted, self._seen
            )
        answers = {}
        for name, reference in asked.items():
            try:
                answers[name] = ray.get(reference)
            except ray.exceptions.RayTaskError as error:  # of what a node cannot import, say
                raise UserError(
                    f"node {name} of the Ray cluster cannot run this package ({_brief(error.cause)}): install the same "
                    "version of it there"
                ) from error
            except (ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError) as error:
                say(f"node {name} of the Ray cluster is gone ({type(error).__name__})")
            except ray.exceptions.RayError as error:
                raise UserError(
                    f"node {name} of the Ray cluster cannot run this package ({_brief(error)}): look into Ray's logs "
                    "there, or take it out of the cluster"
                ) from error
        if not answers:
            raise UserError(f"all nodes of the Ray cluster at {self._head} are gone: start some")
        return answers

    def surroundings(self, trial: Trial) -> dict[str, str]:
        """All that decides the trial's numbers beside its specification, as the nodes have it."""
        return self._surroundings

    def place(self, index: int) -> tuple[None, int, None]:
        """Ray ends its workers itself, shows each only the device that it may use, and kernels are the nodes' own."""
        return None, 0, None

    def epochs_done(self, task: Any) -> int:
        """How many epochs of a trial its worker said are saved."""
        return self._epochs.get(task.trial, 0)

    def run(self, tasks: list[Any], done: dict[Trial, Any]) -> None:
        """Run the tasks and put what became of them into `done`. One that was lost goes first."""
        waiting, under_way = deque(tasks), {}
        deaths: dict[str, Counter] = {"worker": Counter(), "node": Counter()}
        try:
            while waiting or under_way:
                while waiting and len(under_way) < self.jobs:
                    task = waiting.popleft()
                    under_way[self._begin(task)] = task
                for stream in self._ready(list(under_way)):
                    task = under_way[stream]
                    item = self._next(stream, task)
                    if isinstance(item, int):
                        self._epochs[task.trial] = item
                        continue
                    del under_way[stream]
                    if isinstance(item, str):
                        item = self._after_loss(task, item, deaths[item])
                    if item is None:
                        waiting.appendleft(replace(task, wait=True))  # for the lock of one that is just ending
                        continue
                    done[task.trial] = item
                    if item.how != "busy":
                        say(str(item))
        except ClusterLostError:
            raise
        except BaseException:
            self._cancel(list(under_way))
            self._store.close_lost(tasks[0].parent_id, waiting=False)
            raise

    def _begin(self, task: Any) -> Any:
        """A trial as a task of the cluster: the stream of what its worker says."""
        gpus = {"num_gpus": self.gpus_per_trial} if self._wanted.device == "cuda" else {}
        remote = self._ray.remote(_trial).options(
            num_cpus=1, num_returns="streaming", max_retries=0, name=task.trial.label, **gpus
        )
        return remote.remote(self._settings, str(Path.cwd()), self._wanted, self._seen, self._surroundings, task)

    def _ready(self, streams: list) -> list:
        """The streams that have something to say. ClusterLostError where the head has been away for long."""
        some, others = self._ray.wait(streams, timeout=LOOK_SECONDS, fetch_local=False)
        if not some:
            self._check_head()
        elif others:
            some += self._ray.wait(others, num_returns=len(others), timeout=0, fetch_local=False)[0]
        return some

    def _check_head(self) -> None:
        if _silent(self._head) is None:
            self._away_since = None
            return
        self._away_since = self._away_since or time.monotonic()
        if time.monotonic() - self._away_since >= GONE_SECONDS:
            raise ClusterLostError(f"the head of the Ray cluster, {self._head}, is gone")

    def _next(self, stream: Any, task: Any) -> Any:
        """What a worker says: an epoch's number or what became of the trial; or what was lost, worker or node."""
        from reproduce.worker import Done

        errors = self._ray.exceptions
        try:
            return self._ray.get(next(stream))
        except StopIteration:  # without a last word: the node went away with it
            return "node"
        except errors.RayTaskError as error:
            if isinstance(error.cause, TrackingError | UserError):
                raise error.cause from error
            return Done(task.trial, "", "failed", f"{type(error.cause).__name__}: {_brief(error.cause)}")
        except (errors.NodeDiedError, errors.LocalRayletDiedError, errors.ObjectLostError):
            return "node"
        except errors.RayError:
            return "worker"

    def _after_loss(self, task: Any, what: str, deaths: Counter) -> Any:
        """Close the run of a trial that lost its worker or node; None to have it run again, else that it failed."""
        from reproduce.worker import Done

        self._store.close_lost(task.parent_id, task.fingerprint)
        deaths[task.trial] += 1
        most = WORKER_DEATHS if what == "worker" else NODE_DEATHS
        if deaths[task.trial] >= most:
            times = "twice" if most == 2 else f"{most} times"
            how = "its worker died" if what == "worker" else "its node went away"
            return Done(task.trial, "", "failed", f"{how} {times}")
        how = "its worker died, perhaps for want of memory" if what == "worker" else "its node is gone"
        say(f"{task.trial.label}: {how}; it is run again")
        return None

    def _cancel(self, streams: list) -> None:
        """End the tasks, and wait until they have."""
        ray, deadline = self._ray, time.monotonic() + CANCEL_SECONDS
        for stream in streams:
            with suppress(ray.exceptions.RayError):
                ray.cancel(stream, force=True)
        while streams and time.monotonic() < deadline:
            for stream in ray.wait(streams, num_returns=1, timeout=LOOK_SECONDS, fetch_local=False)[0]:
                try:
                    ray.get(next(stream))
                except (StopIteration, ray.exceptions.RayError):
                    streams.remove(stream)


def _name(node: dict[str, Any]) -> str:
    """A node's name for people: its own where it was given one, else its machine's."""
    own = node.get("NodeName")
    return own if own and own != node["NodeManagerAddress"] else node["NodeManagerHostname"]


def _check_alike(answers: dict[str, Answer]) -> None:
    """UserError that names the nodes that differ, in what, and what to do."""
    kinds = {name: {"this package": answer.package} | answer.ready.surroundings for name, answer in answers.items()}
    kinds = {"this command": {"this package": package_sha256()}} | kinds
    for key in next(reversed(kinds.values())):
        values: dict[str, list[str]] = {}
        for name, kind in kinds.items():
            if key in kind:
                values.setdefault(kind[key], []).append(name)
        if len(values) > 1:
            sides = sorted((sorted(names), value) for value, names in values.items())
            sides.sort(key=lambda side: -len(side[0]))  # the many first: the odd one is more likely to be at fault
            told = " and ".join(f"{value[:12]} on {_listed(names)}" for names, value in sides)
            raise UserError(
                f"the nodes of the Ray cluster differ in {key}: {told}; the same bits come from the same kind of "
                "machine only: make them alike, or take some out of the cluster"
            )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


@functools.cache
def package_sha256() -> str:
    """What tells one version of this package from another."""
    root = Path(__file__).parent
    files = sorted(path for path in root.rglob("*") if path.suffix in (".py", ".yaml", ".cpp"))
    listed = [f"{path.relative_to(root)} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files]
    return hashlib.sha256("\n".join(listed).encode()).hexdigest()


@contextmanager
def _to_be_seen(store: Any) -> Iterator[Seen]:
    """What this command sees of the store, with a token in each directory that the nodes would have to share."""
    from reproduce.connection import SQLITE

    experiment = store.client.get_experiment(store.experiment_id)
    folders = {}
    if store.uri.startswith(SQLITE):
        folders[f"the tracking store {store.shown_uri}"] = Path(store.uri.removeprefix(SQLITE).partition("?")[0]).parent
    root = urlsplit(experiment.artifact_location)
    if root.scheme in ("", "file"):
        folders[f"the artifacts in {root.path}"] = Path(unquote(root.path) if root.scheme else root.path)
    ours = f"{TOKEN}{store.home_id}-"
    with ExitStack() as stack:
        tokens = {}
        for what, folder in folders.items():
            folder.mkdir(parents=True, exist_ok=True)
            for old in folder.glob(f"{ours}*"):  # of a command that was killed
                if time.time() - old.stat().st_mtime > STALE_SECONDS:
                    old.unlink(missing_ok=True)
            tokens[what] = folder / f"{ours}{uuid.uuid4().hex}"
            tokens[what].touch()
            stack.callback(tokens[what].unlink, missing_ok=True)
        yield Seen(store.uri, store.shown_uri, store.experiment_id, experiment.creation_time, store.home_id, tokens)


# What runs on the nodes.


def _answer(settings: dict[str, str], directory: str, wanted: Wanted, seen: Seen) -> Answer:
    """Have this node ready, and say what it is."""
    _settle(settings, directory)
    found = provenance.environment()
    kind = found["cpu"] if wanted.device == "cpu" else f"{found['cpu']}, {found['gpu']}"
    try:
        shares_home = (wanted.home / "id").read_text() == seen.home_id
    except OSError:
        shares_home = False
    answer = Answer(package_sha256(), kind, shares_home)
    try:
        _check_sight(seen)
        _check_store(seen)
        return replace(answer, ready=_made_ready(wanted))
    except UserError as error:
        return replace(answer, trouble=str(error))


def _trial(
    settings: dict[str, str], directory: str, wanted: Wanted, seen: Seen, surroundings: dict[str, str], task: Any
) -> Iterator[Any]:
    """Run the trial here, unless this node, which may have come later than the others, is not like them."""
    _settle(settings, directory)
    import ray

    from reproduce import worker

    own = ray.get_runtime_context().get_node_id()
    name = next((_name(node) for node in ray.nodes() if node["NodeID"] == own), platform.node())
    try:
        _check_sight(seen)
        here = _made_ready(replace(wanted, engine=task.trial.engine))
        differing = [name for name, value in here.surroundings.items() if surroundings[name] != value]
        if differing:
            raise UserError(f"it differs from the other nodes in {', '.join(differing)}: take it out of the cluster")
        _check_gpu(wanted)
    except UserError as error:
        yield worker.Done(task.trial, "", "failed", f"node {name}: {error}")
        return
    yield from worker.run_trial(replace(task, kernel=here.kernel, node=name))


def _settle(settings: dict[str, str], directory: str) -> None:
    """Be as the command is: relative paths, in the store's address say, are from its directory."""
    os.environ.update(settings)
    with suppress(OSError):  # where that is not there, nothing relative is seen, and that is told
        os.chdir(directory)


def _check_sight(seen: Seen) -> None:
    for what, token in seen.tokens.items():
        if not token.exists():
            raise UserError(
                f"it does not see {what} but its own disk: have MLFLOW_TRACKING_URI name a server that all nodes reach "
                "(mlflow server), or be in a directory that they share"
            )


def _check_store(seen: Seen) -> None:
    from reproduce import connection, patience

    try:
        created_at = connection.created_at(seen.uri, seen.experiment_id)
    except UserError:
        raise
    except Exception as error:  # a database's driver raises what it likes, or is not installed
        raise UserError(
            f"it cannot use the tracking store {seen.shown_uri} ({patience.one_line(error)}): have "
            "MLFLOW_TRACKING_URI name one that all nodes reach, and give the nodes what that asks for in their own "
            "environment"
        ) from error
    if created_at != seen.created_at:
        raise UserError(
            f"at {seen.shown_uri} it finds another store than this command: have MLFLOW_TRACKING_URI name one that is "
            "the same from every node"
        )


@functools.cache
def _made_ready(wanted: Wanted) -> Ready:
    """Data and kernel in place, in this node's home."""
    from reproduce import engines, mnist, mnist_files

    said: list[str] = []
    places.own(wanted.home, "REPRODUCE_HOME")
    brought = wanted.data_dir if wanted.data_dir and wanted.data_dir.is_dir() else places.usual_data_dir()
    engine, kernel = engines.resolve(wanted.engine, wanted.device, wanted.home, said.append)
    mnist_files.prepare(wanted.dataset, wanted.home, brought, said.append)
    digest = engines.digest(engine, kernel)
    found = provenance.surroundings(mnist.data_sha256(wanted.dataset), wanted.device, digest)
    return Ready(engine, kernel, found, tuple(said))


def _check_gpu(wanted: Wanted) -> None:
    if wanted.device == "cuda":
        import torch

        if not torch.cuda.is_available():  # it would compute on the CPU, and be recorded as of a GPU
            raise UserError("its PyTorch sees no GPU, though Ray gives one: install one that does")
