"""Manocha, CS5260 Assignment 6, 2022: LeNet-5 on MNIST, a learning-rate range test and twelve models."""
