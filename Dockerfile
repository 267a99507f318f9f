# The server of mcd, on CPUs by default (docs/serving.md):
#     docker build -t mcd-serve .
#     docker run --rm -p 127.0.0.1:8000:8000 mcd-serve
# For GPUs: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128, and `docker run --gpus all`.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python -m venv /opt/mcd
WORKDIR /src
COPY constraints.txt ./
# Torch first, in a layer of its own, which a change of the source leaves as it is.
RUN /opt/mcd/bin/pip install --no-cache-dir -c constraints.txt --extra-index-url "${TORCH_INDEX}" torch
COPY pyproject.toml MANIFEST.in README.md LICENSE ./
COPY mcd ./mcd
RUN /opt/mcd/bin/pip install --no-cache-dir -c constraints.txt --extra-index-url "${TORCH_INDEX}" '.[serve]'

FROM python:${PYTHON}-slim
RUN useradd --create-home --uid 10001 mcd
COPY --from=build /opt/mcd /opt/mcd
ENV PATH=/opt/mcd/bin:${PATH} PYTHONDONTWRITEBYTECODE=1
USER mcd
WORKDIR /home/mcd
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready', timeout=4)"]
ENTRYPOINT ["mcd", "serve", "--host", "0.0.0.0"]
CMD ["demo"]
