r"""Spectra of the Hessian at the checkpoints of a run, in the space of its active weights and biases.

  python hessian.py --logdir=runs/rigl --gin_config=configs/hessian.gin

Results go to hessian/ in the directory of the run.
"""

import pathlib

from absl import flags

from sparse_lib.experiment.command_line import cli
from sparse_lib.experiment.command_line.options import Options

cli.define_common_flags()


def main() -> None:
    """Computes the missing spectra."""
    cli.import_tensorflow()
    from sparse_lib.experiment.command_line import commands

    commands.hessian(Options.from_flags(), pathlib.Path(flags.FLAGS.logdir))


if __name__ == "__main__":
    cli.run(main)
