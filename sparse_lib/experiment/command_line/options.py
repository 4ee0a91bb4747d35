"""The options that all entry points share: configuration, seed and devices."""

import dataclasses
from collections.abc import Sequence
from typing import Self

from absl import flags

# Below the working directory, since anybody could have put a run into a folder below /tmp.
DEFAULT_LOGDIR = "runs/sparse_spectrum"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The common flags of a command line.

    Attributes:
      gin_config: gin files, read in order.
      gin_bindings: bindings, which win over files.
      updater_module: modules to import, which register updaters from outside the package.
      preload_gin_config: a gin file that is read first; empty for none.
      seed: wins over training.seed; None leaves it.
      strategy: of `sparse_lib._utils.strategy_names`.
      tpu: address of the TPU, for the strategy `tpu`.
    """

    gin_config: Sequence[str] = ()
    gin_bindings: Sequence[str] = ()
    updater_module: Sequence[str] = ()
    preload_gin_config: str = ""
    seed: int | None = None
    strategy: str = "auto"
    tpu: str = ""

    @classmethod
    def from_flags(cls) -> Self:
        """Reads the parsed flags; --use_tpu means --strategy=tpu, and --master is the address of the TPU."""
        values = {field.name: getattr(flags.FLAGS, field.name) for field in dataclasses.fields(cls)}
        values["tpu"] = values["tpu"] or flags.FLAGS.master
        return cls(**values | ({"strategy": "tpu"} if flags.FLAGS.use_tpu else {}))

    @property
    def has_configuration(self) -> bool:
        """Whether the command line configures anything by gin."""
        return bool(self.gin_config or self.gin_bindings or self.preload_gin_config)
