# The project on NVIDIA GPUs, with exactly the packages of the lock. PyTorch's wheels bring CUDA's libraries; the driver is the
# host's.
#
#   docker build -f containers/cuda.Dockerfile -t lolm .
#   docker run --gpus all --ipc host -it -v "$PWD":/lolm lolm make repro SCALE=149m STUDY=field
#
# TORCH_INDEX is an extra package index, for example of PyTorch's builds for another CUDA, or for CPUs alone: their hashes are not
# in the lock, so packages are then pinned by version alone. For the kernels of mamba-ssm set BASE to an image with nvcc of the CUDA
# that PyTorch was built with and Python 3.12 with venv, and install the extra `cuda` inside (docs/scale.md).
ARG BASE=python:3.12-slim-bookworm
FROM ${BASE}
ARG TORCH_INDEX=

# Triton compiles the launchers of its kernels with gcc.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc g++ git make \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system --add safe.directory /lolm

ENV VIRTUAL_ENV=/opt/lolm PATH=/opt/lolm/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv "$VIRTUAL_ENV"
WORKDIR /lolm

# The packages first: they change less often than the code.
COPY pyproject.toml constraints.txt requirements.lock README.md LICENSE ./
RUN mkdir lolm pipeline benchmarks \
    && if [ -z "$TORCH_INDEX" ]; then pip install --require-hashes -r requirements.lock; \
       else pip install --extra-index-url "$TORCH_INDEX" -c constraints.txt -e '.[test]'; fi
COPY . .
RUN pip install --no-deps --no-build-isolation -e .

CMD ["make", "help"]
