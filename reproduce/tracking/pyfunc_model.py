"""The trained network as an MLflow model: this code and a safetensors file, so that nothing is pickled.

`mlflow.pyfunc.load_model("runs:/RUN/model").predict(images)` takes images (n, 1, 32, 32) float32 in [0, 1] and returns
logits (n, 10) float32.
"""

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from safetensors.torch import load_file

from reproduce.studies.lenet5_mnist.network import LeNet5


class Classifier(PythonModel):
    """LeNet-5 with the weights of one trial."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the weights that were logged beside this code."""
        self.network = LeNet5()
        self.network.load_state_dict(load_file(context.artifacts["weights"]))
        self.network.eval()

    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, object] | None = None
    ) -> np.ndarray:
        """Return the logits (n, 10) of images (n, 1, 32, 32)."""
        with torch.no_grad():
            logits: np.ndarray = self.network(torch.from_numpy(np.ascontiguousarray(model_input))).numpy()
        return logits


set_model(Classifier())
