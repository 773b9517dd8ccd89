# The server for ONNX files on NVIDIA GPUs, without PyTorch. The host needs a driver for CUDA 12 and NVIDIA's container toolkit:
#   docker build --file docker/cuda.Dockerfile --tag onelook:cuda .
#   docker run --gpus all --read-only --tmpfs /tmp --init --publish 127.0.0.1:8000:8000 --volume "$PWD/models:/models:ro" onelook:cuda
ARG CUDA_IMAGE=nvidia/cuda:12.6.3-cudnn-runtime-ubuntu24.04
ARG PYTHON_IMAGE=python:3.12.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS wheel
WORKDIR /source
# Git is not here to say which version this is; without the argument it is the one of sources without a tag.
ARG VERSION=
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY src ./src
RUN SETUPTOOLS_SCM_PRETEND_VERSION_FOR_ONELOOK="${VERSION}" pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM ${CUDA_IMAGE}
# Made for CUDA 12 and cuDNN 9, which the base image has. Change both together.
ARG ONNXRUNTIME_GPU=1.23.2
# Not fixed to versions: Ubuntu keeps only the newest, with its security fixes.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
COPY --from=wheel /wheels /wheels
# `onnxruntime` and `onnxruntime-gpu` write the same files, so that only one may be there. Onelook asks for the first:
# it is removed again before the second is installed. `pip check` would miss it, so the providers are checked instead.
RUN python3 -m venv /opt/onelook \
    && /opt/onelook/bin/python -m pip install --no-cache-dir "onelook[serve] @ file://$(ls /wheels/onelook-*.whl)" \
    && /opt/onelook/bin/python -m pip uninstall --yes onnxruntime \
    && /opt/onelook/bin/python -m pip install --no-cache-dir "onnxruntime-gpu==${ONNXRUNTIME_GPU}" \
    && /opt/onelook/bin/python -c "import onnxruntime as o; assert 'CUDAExecutionProvider' in o.get_available_providers()"
ENV PATH=/opt/onelook/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/tmp \
    TMPDIR=/tmp \
    XDG_CACHE_HOME=/tmp/cache \
    PYTHONPYCACHEPREFIX=/tmp/pycache \
    PYTHONUNBUFFERED=1 \
    LANG=C.UTF-8 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
WORKDIR /models
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=4)"]
ENTRYPOINT ["onelook", "serve", "--host", "0.0.0.0", "--port", "8000", "--device", "cuda"]
CMD ["--watch", "/models"]
