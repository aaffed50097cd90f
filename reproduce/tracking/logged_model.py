"""A trained network, logged to its run as an MLflow model that needs nothing else of this package."""

import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from reproduce.data import datasets

MODEL_NAME = "model"
MODEL_CODE = Path(__file__).with_name("pyfunc_model.py")
# The network's module and the packages around it.
NETWORK = (
    "__init__.py", "studies/__init__.py", "studies/lenet5_mnist/__init__.py", "studies/lenet5_mnist/network.py",
)  # fmt: skip
# What the model's code imports.
REQUIREMENTS = ("mlflow", "torch", "numpy", "safetensors")


def log_model(client: MlflowClient, run_id: str, weights: Path) -> None:
    """Log the weights, a safetensors file, with the code of the network, as the run's only model."""
    _delete_models(client, run_id)
    images = TensorSpec(np.dtype(np.float32), (-1, 1, datasets.SIDE, datasets.SIDE))
    logits = TensorSpec(np.dtype(np.float32), (-1, 10))
    with tempfile.TemporaryDirectory() as folder, mlflow.start_run(run_id=run_id), warnings.catch_warnings():
        # The signature is given.
        warnings.filterwarnings("ignore", message=".*input example was not provided")
        code, package = Path(folder) / "reproduce", MODEL_CODE.parent.parent
        for file in NETWORK:
            (code / file).parent.mkdir(parents=True, exist_ok=True)
            (code / file).write_bytes((package / file).read_bytes())
        logged = mlflow.pyfunc.log_model(
            name=MODEL_NAME,
            python_model=str(MODEL_CODE),
            artifacts={"weights": str(weights)},
            code_paths=[str(code)],
            signature=ModelSignature(inputs=Schema([images]), outputs=Schema([logits])),
            pip_requirements=[f"{name}=={version(name)}" for name in REQUIREMENTS],
        )
    _delete_models(client, run_id, kept=logged.model_id)


def _delete_models(client: MlflowClient, run_id: str, kept: str | None = None) -> None:
    """Delete the run's other models: of an attempt that was stopped, or made twice as an answer was lost."""
    experiment_id = client.get_run(run_id).info.experiment_id
    for model in client.search_logged_models([experiment_id], filter_string=f"source_run_id = '{run_id}'"):
        if model.model_id != kept:
            client.delete_logged_model(model.model_id)
