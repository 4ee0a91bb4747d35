"""The pruned run whose masks or weights a configuration takes, where it lies in the default directory."""

import pathlib

from absl import logging

from sparse_lib.experiment.command_line.options import DEFAULT_LOGDIR, Options
from sparse_lib.experiment.command_line.shell import join_words
from sparse_lib.experiment.config import gin_files
from sparse_lib.experiment.runtime.errors import RunError
from sparse_lib.experiment.storage import checkpoints, files, sources
from sparse_lib.experiment.storage.checkpoints import split_checkpoint

# Runs that the gin files of configs/, mlp_configs/ and rigl_tf2 name, and the file that makes each.
NAMED = {
    "runs/prune": "configs/prune.gin",
    "runs/mlp_prune": "mlp_configs/prune.gin",
    "/tmp/sparse_spectrum": "configs/prune.gin",
}
_PATHS = ("mask_init_path", "weight_init_path")
_OWN_CHOICE = ("PRUNED_RUN", "PRUNED_START", *(f"network.{name}" for name in _PATHS))
# Bindings of the run that takes the masks, which pruning does not share with it.
_OF_TICKETS = (
    *(*_OWN_CHOICE, "network.weight_init_method", "network.shuffle_mask", "mask_updater.", "training.seed"),
    *("UPDATE_FREQ", "DROP_FRACTION", "LAST_UPDATE"),
)
_PRUNE = "prune.gin"
_DEFAULT_FILES = {"lenet5": "configs/prune.gin", "mlp": "mlp_configs/prune.gin"}
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


def check_sources(options: Options) -> None:
    """Checks that the runs whose masks and weights a new run takes are there.

    Args:
      options: of the command line; its gin files are parsed.

    Raises:
      RunError: for a missing run, with the command that makes it.
    """
    for name in _PATHS:
        path = gin_files.read_bound("network", name)
        if not isinstance(path, str) or not path or sources.is_keras_file(path):
            continue
        run, _ = split_checkpoint(path)
        if pathlib.Path(run).exists() or pathlib.Path(f"{path}.index").exists():
            continue
        try:
            checkpoints.find(path)
        except RunError as error:
            raise RunError(f"{error} Make the run by: {_make_command(options, run)}") from error


def _make_command(options: Options, run: str) -> str:
    """Returns the command that prunes the network of a command line, on its data."""
    configs = [_find_pruning_file(pathlib.Path(path)) for path in options.gin_config]
    if not any(path.name == _PRUNE for path in configs):
        configs = [pathlib.Path(_DEFAULT_FILES.get(_read_network(), _DEFAULT_FILES["lenet5"]))]
    kept = [binding for binding in options.gin_bindings if not binding.lstrip().startswith(_OF_TICKETS)]
    words = ["python", "train.py", f"--logdir={run}", *(f"--gin_config={path}" for path in configs)]
    return join_words([*words, *(f"--gin_bindings={binding}" for binding in kept)])


def _find_pruning_file(path: pathlib.Path) -> pathlib.Path:
    """Returns the file of pruning beside the file of another method; another file stays."""
    beside = path.with_name(_PRUNE)
    return beside if beside.is_file() else path


def _read_network() -> str:
    return str(gin_files.read_bound("network", "network_name") or "lenet5")


def _is_missing(run: str) -> bool:
    return run in NAMED and not pathlib.Path(run).exists()


def _check_default_run(wanted: str) -> None:
    """Checks that the default directory holds a finished pruned run of the configured network."""
    default = pathlib.Path(DEFAULT_LOGDIR)
    remedy = f"make it by: python train.py --logdir={wanted} --gin_config={NAMED[wanted]}"
    if not (default / files.RUN).is_file():
        raise RunError(f"There is no pruned run {wanted}; {remedy}")
    found = files.read_json(default / files.RUN, _REMEDY)
    network = _read_network()
    if not str(found.get("method")).startswith("prune") or found.get("network") != network:
        raise RunError(
            f"There is no pruned run {wanted}, and {default} holds {found.get('method')} of {found.get('network')}; "
            f"{remedy}"
        )
    if not (default / files.RESULT).is_file():
        raise RunError(f"The pruned run in {default} is not finished; the command that began it goes on with it.")
