"""A vLLM that was not tested does not start with this plugin, and a tested one is changed in every place or in none."""

import subprocess
import sys

import pytest
from melo_vllm import patching
from melo_vllm.patching import Patch, UnknownVllm, require_tested, source_of

pytest.importorskip("vllm")


def test_an_untested_release_is_refused_by_name():
    require_tested(patching.TESTED[-1])
    with pytest.raises(UnknownVllm, match=r"tested with vLLM 0\.32\.0, and this is 9\.9\.9"):
        require_tested("9.9.9")


def test_one_function_that_differs_leaves_all_of_them_as_they_were():
    from vllm.lora.request import LoRARequest
    from vllm.v1.worker.gpu_input_batch import InputBatch

    kept = InputBatch.make_lora_inputs
    known = Patch(InputBatch, "make_lora_inputs", source_of(kept), lambda original: None)
    with pytest.raises(UnknownVllm, match=r"vllm\.lora\.request\.LoRARequest\.moved differ"):
        patching.apply([known, Patch(LoRARequest, "moved", "0" * 16, lambda original: None)])
    assert InputBatch.make_lora_inputs is kept


def test_the_installed_release_is_the_tested_one_in_every_place():
    """In a process of its own, since it changes vLLM."""
    program = (
        "import melo_vllm; melo_vllm.register(); melo_vllm.register()\n"
        "from vllm.v1.core import block_pool, kv_cache_utils\n"
        "assert block_pool.generate_block_hash_extra_keys is kv_cache_utils.generate_block_hash_extra_keys\n"
        "from vllm.lora.resolver import LoRAResolverRegistry as known\n"
        "print(sorted(known.get_supported_resolvers()))"
    )
    environment = {"PATH": "/usr/bin:/bin", "MELO_API_URL": "http://127.0.0.1:9", "VLLM_LOGGING_LEVEL": "ERROR"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "['melo']"


def test_a_vllm_that_differs_does_not_start():
    program = (
        "import vllm.v1.worker.gpu_input_batch as module\n"
        "module.InputBatch.make_lora_inputs = lambda self, *given: None\n"
        "from vllm.plugins import load_general_plugins; load_general_plugins()"
    )
    environment = {"PATH": "/usr/bin:/bin", "VLLM_PLUGINS": "melo", "VLLM_LOGGING_LEVEL": "ERROR"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "UnknownVllm: melo-vllm does not know this build of vLLM" in done.stderr
