# Everything of uv.lock on a small Debian; PyTorch's wheels bring CUDA, so only the host needs NVIDIA's driver.
#   docker build -f cluster/docker/gpu.Dockerfile -t registry.example/aqa:0.1.0-ray2.60.0-gpu .
ARG PYTHON=3.11.14-slim-bookworm
FROM python:${PYTHON} AS build
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
RUN pip install --no-cache-dir uv==0.13.8
WORKDIR /opt/aqa
COPY pyproject.toml uv.lock ./
RUN uv sync --locked --no-dev --no-install-project
COPY README.md LICENSE ./
COPY aqa_models aqa_models
COPY pipelines pipelines
COPY cluster cluster
RUN uv sync --locked --no-dev --no-editable

FROM python:${PYTHON}
# wget: KubeRay's probes; procps, rsync, login shells: Ray's cluster launcher; tini: reaps Ray's orphans.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends procps rsync tini wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 --gid users ray \
    && install -d -o ray -g users /shared \
    && echo "export PATH=/opt/aqa/.venv/bin:\$PATH" > /etc/profile.d/aqa.sh
COPY --from=build /opt/aqa/.venv /opt/aqa/.venv
ENV PATH=/opt/aqa/.venv/bin:$PATH \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    OMP_WAIT_POLICY=PASSIVE \
    RAY_AUTH_MODE=token \
    RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 \
    RAY_USAGE_STATS_ENABLED=0 \
    MLFLOW_DISABLE_TELEMETRY=true
USER 1000:100
WORKDIR /home/ray
ENTRYPOINT ["tini", "--"]
CMD ["aqa", "doctor"]
