# The server for exported files on CPUs, without PyTorch:
#   docker build --file docker/cpu.Dockerfile --tag onelook:cpu .
#   docker run --read-only --tmpfs /tmp --init --publish 127.0.0.1:8000:8000 --volume "$PWD/models:/models:ro" onelook:cpu
ARG PYTHON_IMAGE=python:3.13.7-slim-bookworm

FROM ${PYTHON_IMAGE} AS wheel
WORKDIR /source
# Git is not here to say which version this is; without the argument it is the one of sources without a tag.
ARG VERSION=
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY src ./src
RUN SETUPTOOLS_SCM_PRETEND_VERSION_FOR_ONELOOK="${VERSION}" pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM ${PYTHON_IMAGE} AS packed
COPY --from=wheel /wheels /wheels
RUN python -m venv /opt/onelook \
    && /opt/onelook/bin/python -m pip install --no-cache-dir --no-compile "onelook[serve] @ file://$(ls /wheels/onelook-*.whl)" \
    && /opt/onelook/bin/python -m pip check
COPY docker/pack_root.sh /pack_root.sh
RUN /pack_root.sh /opt/onelook /root-of-image

# No shell and no package manager are in the image: all commands below are in exec form.
FROM scratch
COPY --from=packed /root-of-image /
# /tmp holds caches and the files of large uploads. It is the only folder that is written to: with a read-only root,
# mount a tmpfs there.
ENV PATH=/opt/onelook/bin \
    HOME=/tmp \
    TMPDIR=/tmp \
    XDG_CACHE_HOME=/tmp/cache \
    PYTHONPYCACHEPREFIX=/tmp/pycache \
    PYTHONUNBUFFERED=1 \
    LANG=C.UTF-8
USER 10001:10001
WORKDIR /models
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=4)"]
ENTRYPOINT ["onelook", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["--watch", "/models"]
