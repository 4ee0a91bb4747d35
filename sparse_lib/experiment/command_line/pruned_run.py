"""The pruned run whose masks or weights a configuration takes, where it lies in the default directory."""

import pathlib

from absl import logging

from sparse_lib.experiment.command_line.options import DEFAULT_LOGDIR, Options
from sparse_lib.experiment.config import gin_files
from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.storage import files
from sparse_lib.experiment.storage.checkpoints import split_checkpoint

# Runs that the gin files of configs/, mlp_configs/ and rigl_tf2 name, and the file that makes each.
NAMED = {
    "runs/prune": "configs/prune.gin",
    "runs/mlp_prune": "mlp_configs/prune.gin",
    "/tmp/sparse_spectrum": "configs/prune.gin",
}
_PATHS = ("mask_init_path", "weight_init_path")
_OWN_CHOICE = ("PRUNED_RUN", "PRUNED_START", *(f"network.{name}" for name in _PATHS))
_REMEDY = "delete it, and prune again"


def redirect(options: Options, directory: pathlib.Path, *, overwrite: bool) -> None:
    """Replaces a missing run that gin files name by the pruned run in the default directory.

    The published commands prune without --logdir, and then train tickets by files that name a run. What the command
    line names itself is never replaced. A run that exists keeps the masks that it started from.

    Args:
      options: of the command line; its gin files are parsed.
      directory: of the run that takes masks or weights.
      overwrite: whether that run starts again.

    Raises:
      RunError: if there is neither run, with the command that makes it.
    """
    if any(binding.lstrip().startswith(_OWN_CHOICE) for binding in options.gin_bindings):
        return
    paths = {name: path for name in _PATHS if isinstance(path := gin_files.read_bound("network", name), str)}
    missing = {name: path for name, path in paths.items() if _is_missing(split_checkpoint(path)[0])}
    if not missing:
        return
    config = directory / files.OPERATIVE_CONFIG
    if config.is_file() and not overwrite:
        if f"'{DEFAULT_LOGDIR}" not in config.read_text(encoding="utf8", errors="replace"):
            return
    else:
        _check_default_run(split_checkpoint(next(iter(missing.values())))[0])
        logging.info(
            "There is no %s: the pruned run is that of %s.", ", ".join(dict.fromkeys(missing.values())), DEFAULT_LOGDIR
        )
    for name, path in missing.items():
        run, _ = split_checkpoint(path)
        gin_files.rebind("network", name, f"{DEFAULT_LOGDIR}{path.removeprefix(run)}")


def _is_missing(run: str) -> bool:
    return run in NAMED and not pathlib.Path(run).exists()


def _check_default_run(wanted: str) -> None:
    """Checks that the default directory holds a finished pruned run of the configured network."""
    default = pathlib.Path(DEFAULT_LOGDIR)
    remedy = f"make it by: python train.py --logdir={wanted} --gin_config={NAMED[wanted]}"
    if not (default / files.RUN).is_file():
        raise RunError(f"There is no pruned run {wanted}; {remedy}")
    found = files.read_json(default / files.RUN, _REMEDY)
    network = gin_files.read_bound("network", "network_name") or "lenet5"
    if not str(found.get("method")).startswith("prune") or found.get("network") != network:
        raise RunError(
            f"There is no pruned run {wanted}, and {default} holds {found.get('method')} of {found.get('network')}; "
            f"{remedy}"
        )
    if not (default / files.RESULT).is_file():
        raise RunError(f"The pruned run in {default} is not finished; the command that began it goes on with it.")
