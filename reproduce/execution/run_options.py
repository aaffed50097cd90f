"""Where and how a command runs, as its options say."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from reproduce.paths import find_home
from reproduce.study.fields import Dataset, Frozen, Sha256
from reproduce.study.own_code import NO_CODE, OwnCode

EngineChoice = Literal["auto", "torch", "fused"]
DeviceChoice = Literal["auto", "cpu", "cuda"]
ExecutorName = Literal["local", "ray"]


class RunOptions(Frozen):
    """Where and how a command runs, and where its report goes. None stands for what the machine or the place offers.

    `home` is the folder of data, checkpoints and locks, `data_dir` where the images are looked for first. `jobs` is how
    many trials run at once, `gpus_per_trial` a part of a GPU, `smoothing` the weight of the past in the average that
    smooths a range test's loss, in [0, 1). `own_network` says that the study has its own, which no kernel computes.
    `data_sha256` is that of its own data, `code` its own Python, and `packages` what that imports to train a model.
    """

    home: Path = Field(default_factory=find_home)
    dataset: Dataset = "mnist"
    data_sha256: Sha256 | None = None
    own_network: bool = False
    code: OwnCode = NO_CODE
    packages: tuple[str, ...] = ()
    data_dir: Path | None = None
    engine: EngineChoice = "auto"
    device: DeviceChoice = "auto"
    executor: ExecutorName = "local"
    jobs: Annotated[int, Field(gt=0)] | None = None
    ray_address: str | None = None
    gpus_per_trial: Annotated[float, Field(gt=0, le=1)] = 1.0
    force: bool = False
    smoothing: Annotated[float, Field(ge=0, lt=1)]
    output: Path = Path("report/output")
    ui_url: str | None = None
    check: bool = False
    strict: bool = False
