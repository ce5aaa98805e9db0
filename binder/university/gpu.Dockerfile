# The GPU profile's image: the course's image with PyTorch's build for CUDA, from the same constraints.
# Not tested: it was never built.
#   docker build --build-arg IMAGE=registry.example.org/bayesian-deep-learning:2026.11 \
#     --tag registry.example.org/bayesian-deep-learning:2026.11-cuda --file gpu.Dockerfile .
ARG IMAGE
FROM ${IMAGE}
RUN python -m pip install --no-cache-dir --force-reinstall --constraint constraints.txt torch
