"""vLLM plugin: LoRA blocks that act from the last prompt token on, share the prompt's cache, and are fetched by digest.

vLLM calls `register` in the API server, in the engine core and in every worker. Environment:

MELO_API_URL          the registry that blocks are fetched from; without it, adapters are loaded by hand
MELO_API_KEY          its key, of a role viewer in the collections whose blocks are wanted
MELO_BLOCKS_FOLDER    where fetched blocks lie, private to this server; a fresh temporary folder where it is not set
MELO_BLOCKS_MB        the most that they may take together (4096)
"""

from melo_vllm.settings import Settings


def register() -> None:
    """Change vLLM in this process. Raises UnknownVllm, so that a vLLM which was not tested does not start."""
    from melo_vllm import cpu, patching, positions, prefix, registry

    if patching.is_done():
        return
    patching.require_tested(patching.installed())
    settings = Settings.read()
    resolver = None if settings is None else registry.BlockResolver(settings)
    with patching.known():
        patches = [*positions.patches(), *prefix.patches(), *cpu.patches(), *registry.patches(resolver)]
    patching.apply(patches)
    if resolver is not None:
        registry.add_resolver(resolver)
