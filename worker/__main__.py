"""`python -m worker`: train jobs until told to stop."""

import argparse
import os
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from registry.base.errors import InvalidRequest, RegistryError
from registry.base.logging import configure_logging
from registry.base.settings import Settings
from worker import devices


def main(arguments: Sequence[str] | None = None) -> None:
    configure_logging(sys.stdout)
    parser = argparse.ArgumentParser("python -m worker", description=__doc__)
    parser.add_argument("--model", action="append", default=[], help="a base model to work for; may be repeated")
    parser.add_argument("--tied", type=int, metavar="PID", help="end when this parent has ended")
    given = parser.parse_args(arguments)
    try:
        settings = Settings()
        wanted = devices.named(settings.devices)
        if len(wanted) > 1:
            devices.require_present(wanted)
            sys.exit(devices.run(wanted, [f"--model={model}" for model in given.model]))
        _work(settings, wanted, given.model, given.tied)
    except RegistryError as error:
        sys.exit(str(error))
    except ValidationError as error:
        sys.exit(f"A setting is not valid: {error}\nCorrect the MELO_ variable that it names.")


def _work(settings: Settings, wanted: Sequence[str], models: Sequence[str], parent: int | None) -> None:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    for device in wanted:
        devices.prepare(device)
    import torch  # imported late: torch reads the visible devices on import

    if wanted and wanted[0] != devices.CPU and not torch.cuda.is_available():
        os.environ.pop("CUDA_VISIBLE_DEVICES") if visible is None else os.environ.update(CUDA_VISIBLE_DEVICES=visible)
        devices.require_present(wanted)
        raise InvalidRequest(f"GPU {wanted[0]} cannot be used.", "See what is wrong with: nvidia-smi")
    from worker.celery_app import serve

    serve(settings, models=models, parent=parent)
    sys.stdout.flush()
    os._exit(0)  # unloading torch normally takes a second, and nothing needs it


if __name__ == "__main__":
    main()
