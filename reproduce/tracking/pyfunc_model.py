"""The trained network as an MLflow model: this code and a safetensors file, so that nothing is pickled.

`mlflow.pyfunc.load_model("runs:/RUN/model").predict(images)` takes images (n, 1, 32, 32) float32 in [0, 1] and gives
logits (n, 10) float32.
"""

import mlflow
import numpy as np
import torch
from safetensors.torch import load_file

from reproduce.studies.lenet5_mnist.network import LeNet5


class Classifier(mlflow.pyfunc.PythonModel):
    """LeNet-5 with the weights of one trial."""

    def load_context(self, context) -> None:
        """Read the weights that were logged beside this code."""
        self.network = LeNet5()
        self.network.load_state_dict(load_file(context.artifacts["weights"]))
        self.network.eval()

    def predict(self, context, model_input: np.ndarray, params=None) -> np.ndarray:
        """Images (n, 1, 32, 32) to logits (n, 10)."""
        with torch.no_grad():
            return self.network(torch.from_numpy(np.ascontiguousarray(model_input))).numpy()


mlflow.models.set_model(Classifier())
