"""A trained network, logged to its run as an MLflow model that needs nothing else of this package."""

import json
import tempfile
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from reproduce.data import datasets
from reproduce.study import location
from reproduce.study.fields import Code
from reproduce.study.own_code import NO_CODE, OwnCode

MODEL_NAME = "model"
PACKAGE = Path(__file__).parent.parent
MODEL_CODE = Path(__file__).with_name("pyfunc_model.py")
# What the model's code needs of this package.
NEEDED = (
    "__init__.py", "errors.py", "study/__init__.py", "study/own_code.py", "study/text_file.py", "training/__init__.py",
    "training/prepared_network.py",
)  # fmt: skip
# The network of a trial that names none, in the folder of the default study.
BUILT_IN = "network.py:LeNet5"
# What the model's code imports.
REQUIREMENTS = ("mlflow", "torch", "numpy", "safetensors")


@dataclass(frozen=True)
class TrainedNetwork:
    """The network of a trial: its weights, a safetensors file, and of a study's own network what makes it.

    `image_shape` is that of one image, without the number of images.
    """

    weights: Path
    image_shape: tuple[int, ...] = (1, datasets.SIDE, datasets.SIDE)
    own: Code | None = None
    code: OwnCode = NO_CODE


def log_model(client: MlflowClient, run_id: str, network: TrainedNetwork) -> None:
    """Log the weights with the code of the network, as the run's only model."""
    _delete_models(client, run_id)
    images = TensorSpec(np.dtype(np.float32), (-1, *network.image_shape))
    logits = TensorSpec(np.dtype(np.float32), (-1, 10 if network.own is None else -1))
    with tempfile.TemporaryDirectory() as folder, mlflow.start_run(run_id=run_id), warnings.catch_warnings():
        # The signature is given.
        warnings.filterwarnings("ignore", message=".*input example was not provided")
        code = Path(folder) / "reproduce"
        for file in NEEDED:
            (code / file).parent.mkdir(parents=True, exist_ok=True)
            (code / file).write_bytes((PACKAGE / file).read_bytes())
        definition = Path(folder) / "definition.json"
        definition.write_text(json.dumps(_define(network), indent=1), encoding="utf-8")
        logged = mlflow.pyfunc.log_model(
            name=MODEL_NAME,
            python_model=str(MODEL_CODE),
            artifacts={"weights": str(network.weights), "definition": str(definition)},
            code_paths=[str(code)],
            signature=ModelSignature(inputs=Schema([images]), outputs=Schema([logits])),
            pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
        )
    _delete_models(client, run_id, kept=logged.model_id)


def _define(network: TrainedNetwork) -> dict[str, object]:
    """Return what makes a network: a class or function, its arguments, and the files that have its code."""
    if network.own is None:
        code = OwnCode.read(location.SHIPPED / location.DEFAULT, [BUILT_IN])
        return {"code": BUILT_IN, "arguments": {}, "files": dict(code.files)}
    return {
        "code": network.own.code, "arguments": dict(network.own.arguments), "files": dict(network.code.files)
    }  # fmt: skip


def _delete_models(client: MlflowClient, run_id: str, kept: str | None = None) -> None:
    """Delete the run's other models: of an attempt that was stopped, or made twice as an answer was lost."""
    experiment_id = client.get_run(run_id).info.experiment_id
    for model in client.search_logged_models([experiment_id], filter_string=f"source_run_id = '{run_id}'"):
        if model.model_id != kept:
            client.delete_logged_model(model.model_id)
