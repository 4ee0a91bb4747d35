r"""Trains and evaluates sparse networks; every mode is a gin file.

  python train.py --logdir=runs/rigl --seed=1 --gin_config=configs/rigl.gin \
      --gin_bindings='training.total_steps=2000'

Without any file it trains a dense LeNet5 on the embedded digits.
"""

import pathlib

from absl import flags

from sparse_lib.experiment.command_line import cli, help_text
from sparse_lib.experiment.command_line.options import Options

cli.define_common_flags()
cli.define_overwrite_flag()
flags.DEFINE_bool("dry_run", False, "Print configuration, network, masks, cost and place of the run; start nothing.")
flags.DEFINE_multi_string("tracker", [], "Follows the run: wandb, mlflow, or MODULE.CLASS of your own")
flags.DEFINE_integer(
    "extend", None, "Go on with the run of --logdir, finished or not, up to this step; takes its configuration.", 1
)
flags.DEFINE_string("ckpt", "", "Checkpoint for --mode=eval; the last one of --logdir if not given.")
flags.DEFINE_bool("use_batch_statistics", False, "Evaluate with batch norm by the statistics of each batch.")


def define_mode() -> None:
    """Defines --mode, which interpolate.py has too."""
    modes = ["train_eval", "eval", "hessian"]
    cli.define_mode(modes, "Train, evaluate a checkpoint of --logdir, or do what hessian.py does.")


def main() -> None:
    """Runs the selected mode."""
    cli.import_tensorflow()
    from sparse_lib.experiment.command_line import commands

    options, directory = Options.from_flags(), pathlib.Path(flags.FLAGS.logdir)
    if flags.FLAGS.mode == "eval":
        commands.evaluate(options, directory, flags.FLAGS.ckpt, batch_statistics=flags.FLAGS.use_batch_statistics)
    elif flags.FLAGS.mode == "hessian":
        commands.hessian(options, directory)
    else:
        choice = {"overwrite": flags.FLAGS.overwrite, "extend": flags.FLAGS.extend}
        if flags.FLAGS.dry_run:
            commands.plan_training(options, directory, **choice)
        else:
            commands.train(options, directory, **choice, trackers=flags.FLAGS.tracker)


if __name__ == "__main__":
    define_mode()
    cli.run(main, help_text.list_gin_files)
