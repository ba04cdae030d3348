# The project on CPUs, with exactly the packages of the lock: every file is compared with its hash.
#
#   docker build -f containers/cpu.Dockerfile -t lolm-cpu .
#   docker run -it -v "$PWD":/lolm lolm-cpu make repro
#
# The lock's PyTorch is the one of the Python Package Index, which on Linux brings CUDA's libraries, unused here. Its builds for CPUs
# alone are several GB smaller and have other hashes: name their index as TORCH_INDEX of containers/cuda.Dockerfile.
ARG BASE=python:3.12-slim-bookworm
FROM ${BASE}

# torch.compile, which `training.compile` asks for, needs a C++ compiler on CPUs.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ git make \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system --add safe.directory /lolm

ENV VIRTUAL_ENV=/opt/lolm PATH=/opt/lolm/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv "$VIRTUAL_ENV"
WORKDIR /lolm

# The packages first: they change less often than the code.
COPY requirements.lock ./
RUN pip install --require-hashes -r requirements.lock
COPY . .
RUN pip install --no-deps --no-build-isolation -e .

CMD ["make", "help"]
