# The whole study in one image: environment, data and code. docs/container.md explains how to use and build it.
#
# The base is Debian, not NVIDIA's CUDA image. torch's wheels contain the CUDA 12.4 for which they were built, so a CUDA
# base would only add a second copy. Debian 12 has Python 3.11. The host provides the GPU's driver in both cases.
ARG BASE_IMAGE=debian:12.12-slim

# Compile the fused engine's kernel for two levels of x86-64. The program uses the one that the CPU can run.
FROM ${BASE_IMAGE} AS kernel
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ python3.11 \
    && rm -rf /var/lib/apt/lists/*
COPY reproduce/training/fused/library.py reproduce/training/fused/lenet5.cpp /tmp/fused/
RUN python3.11 /tmp/fused/library.py /opt/fused

FROM ${BASE_IMAGE}

# Versions are not pinned, because Debian keeps only the newest. The base's exact tag or digest identifies the release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3.11 python3.11-venv \
    && rm -rf /var/lib/apt/lists/*

# Any user may run the image, even one that the system does not know: no program needs the user's name, or writes
# outside /tmp and the working directory. NVIDIA's container runtime reads the NVIDIA variables. They have no effect
# without a GPU.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    USER=reproduce \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    GIT_PYTHON_REFRESH=quiet \
    MLFLOW_DISABLE_TELEMETRY=true \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# The tools that install packages also come from the lock, so nothing is installed without its hash.
COPY requirements.lock /opt/
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN python3.11 -m venv /opt/venv \
    && awk '/^[^ ]/ { wanted = /^(uv|setuptools)==/ } wanted' /opt/requirements.lock > /tmp/tools.lock \
    && pip install --no-cache-dir --disable-pip-version-check --require-hashes --no-deps --requirement /tmp/tools.lock \
    && VIRTUAL_ENV=/opt/venv uv pip sync --no-cache --no-build-isolation --compile-bytecode --require-hashes \
        /opt/requirements.lock \
    && rm /tmp/tools.lock

# Fetch MNIST and check its hashes. Only the code that fetches it is copied, so other changes do not fetch it again.
COPY reproduce/__init__.py reproduce/errors.py reproduce/escaping.py reproduce/files.py reproduce/paths.py \
    reproduce/progress.py /tmp/fetch/reproduce/
COPY reproduce/data /tmp/fetch/reproduce/data
WORKDIR /tmp/fetch
RUN python -c 'from pathlib import Path; from reproduce.data import verified_cache; verified_cache.prepare("mnist", Path("."))' \
    && mkdir -p /opt/data/MNIST/raw && mv data/mnist/*-ubyte /opt/data/MNIST/raw/ && chmod 644 /opt/data/MNIST/raw/* \
    && rm -rf /tmp/fetch
ENV REPRODUCE_DATA_DIR=/opt/data

COPY --from=kernel /opt/fused /opt/fused
ENV REPRODUCE_FUSED_DIR=/opt/fused
# Import only the image's own code: the working directory may be a checkout too.
ENV PYTHONSAFEPATH=1

# Install this checkout in place. Everybody may read it, whatever the builder's umask was.
COPY . /opt/reproduce
WORKDIR /opt/reproduce
RUN VIRTUAL_ENV=/opt/venv uv pip install --no-cache --no-deps --no-build-isolation --editable . \
    && python -m compileall -q reproduce docker tests \
    && python -m cyclonedx_py environment --output-reproducible --no-validate --pyproject pyproject.toml \
        --output-file sbom.cdx.json /opt/venv \
    && chmod -R a+rX,go-w /opt/reproduce

# Record what this image is made of. Every run in it records this too.
ARG BASE_IMAGE
ARG COMMIT=unknown
RUN python docker/identity.py --base "${BASE_IMAGE}" --commit "${COMMIT}" > image.json \
    && mkdir --mode 1777 /output
LABEL org.opencontainers.image.title="LeNet-5 on MNIST: learning rates and schedules, run again" \
    org.opencontainers.image.description="Reruns, tracks and reports a study of learning rates and schedules" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.base.name="${BASE_IMAGE}" \
    org.opencontainers.image.revision="${COMMIT}" \
    org.cyclonedx.sbom="/opt/reproduce/sbom.cdx.json"

USER 1000:1000
WORKDIR /output
EXPOSE 5000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python", "/opt/reproduce/docker/healthcheck.py"]
ENTRYPOINT ["/bin/sh", "/opt/reproduce/docker/entrypoint.sh"]
CMD ["main"]
