"""Models of PyTorch: programs, TorchScript, and functions that return modules."""
