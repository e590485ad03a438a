"""Model repositories of Triton Inference Server, written from engines of an environment. What
Triton and its TensorRT backend expect is from the user guide and sources of triton-inference-server
(server, core, tensorrt_backend), releases of 2025 and 2026."""
