# As gpu.Dockerfile, with PyTorch's builds without CUDA: some gigabytes less. All other versions are those of
# uv.lock; torch and torchvision have its version numbers and come from PyTorch's own index.
#   docker build -f cluster/docker/cpu.Dockerfile -t registry.example/aqa:0.1.0-ray2.60.0-cpu .
ARG PYTHON=3.11.14-slim-bookworm
FROM python:${PYTHON} AS build
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN pip install --no-cache-dir uv==0.13.8
WORKDIR /opt/aqa
COPY pyproject.toml uv.lock ./
RUN uv venv \
    && uv export --locked --no-dev --no-emit-project --prune torch --prune torchvision --output-file rest.txt \
    && uv export --locked --no-dev --no-emit-project --no-hashes --no-header --no-annotate \
        | sed -nE 's/^(torch|torchvision)==([^ ;]+).*/\1==\2+cpu/p' > torch.txt \
    && uv pip install --require-hashes --requirement rest.txt \
    && uv pip install --requirement torch.txt --extra-index-url https://download.pytorch.org/whl/cpu
COPY README.md LICENSE ./
COPY aqa_models aqa_models
COPY pipelines pipelines
COPY cluster cluster
RUN uv pip install --no-deps .

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
    OMP_WAIT_POLICY=PASSIVE \
    RAY_AUTH_MODE=token \
    RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 \
    RAY_USAGE_STATS_ENABLED=0 \
    MLFLOW_DISABLE_TELEMETRY=true
USER 1000:100
WORKDIR /home/ray
ENTRYPOINT ["tini", "--"]
CMD ["aqa", "doctor"]
