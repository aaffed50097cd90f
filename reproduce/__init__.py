"""Reruns a learning-rate study of LeNet-5 on MNIST, tracks it in MLflow and reports on it."""
