"""A trained network as an MLflow model: its code as text, and a safetensors file. Nothing is pickled.

`mlflow.pyfunc.load_model("runs:/RUN/model").predict(images)` takes images as float32, and returns logits (n, classes)
float32. The built-in network takes images in [0, 1]; a study's own takes them as the data set has them, and prepares
them as the study says.
"""

import json
from pathlib import Path

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from safetensors.torch import load_file

from reproduce.study.own_code import OwnCode
from reproduce.training.prepared_network import PreparedNetwork


class Classifier(PythonModel):
    """A network with the weights of one trial."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the definition and the weights that were logged beside this code."""
        made = json.loads(Path(context.artifacts["definition"]).read_text(encoding="utf-8"))
        weights = load_file(context.artifacts["weights"])
        code = OwnCode(tuple((name, text) for name, text in made["files"].items()))
        # Lists were tuples in training.
        pairs = made["arguments"].items()
        arguments = {key: tuple(value) if isinstance(value, list) else value for key, value in pairs}
        network = code.load(made["code"])(**arguments)
        is_prepared = "mean" in weights
        self.network = PreparedNetwork(network, weights["mean"], weights["scale"]) if is_prepared else network
        self.network.load_state_dict(weights)
        self.network.eval()

    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, object] | None = None
    ) -> np.ndarray:
        """Return the logits (n, classes) of images (n, …)."""
        with torch.no_grad():
            logits: np.ndarray = self.network(torch.from_numpy(np.ascontiguousarray(model_input))).numpy()
        return logits


set_model(Classifier())
