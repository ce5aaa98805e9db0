# The GPU profile's image: the course's image with PyTorch's build for CUDA, from the same constraints.
# Not tested: it was never built. What it takes from constraints.txt is.
#   docker build --build-arg IMAGE=registry.example.org/bayesian-deep-learning:2026.11 \
#     --tag registry.example.org/bayesian-deep-learning:2026.11-cuda --file gpu.Dockerfile .
ARG IMAGE
FROM ${IMAGE}
RUN grep -x "torch==[0-9.]*" constraints.txt > /tmp/torch.txt \
 && python -m pip install --no-cache-dir --force-reinstall --constraint constraints.txt \
      --requirement /tmp/torch.txt
