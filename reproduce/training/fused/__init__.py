"""LeNet-5's forward and backward pass as one C++ kernel for CPUs, behind the same network and the same autograd."""
