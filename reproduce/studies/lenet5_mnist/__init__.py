"""LeNet-5 on MNIST with a learning-rate range test and five schedules: `study.yaml` names the paper."""
