r"""Loss and accuracy on the path between two checkpoints, and the barrier between them.

  python interpolate.py --logdir=runs/lottery --ckpt_start=runs/lottery --ckpt_end=runs/prune \
      --gin_config=configs/interpolate.gin

  python interpolate.py --mode=surface --logdir=runs/around --solution=runs/prune
  python interpolate.py --mode=plane --logdir=runs/between --solution=runs/a --solution=runs/b --solution=runs/c
  python interpolate.py --mode=trajectory --logdir=runs/way --run=runs/prune
  python interpolate.py --mode=instability --logdir=runs/copies --run=runs/prune

Network and data are those of the operative configuration beside the end, the first
solution or the run, or of --operative_gin. Results, such as interpolation.csv and
interpolation.json, go to --logdir.
"""

import pathlib

from absl import flags

from sparse_lib.experiment.command_line import cli
from sparse_lib.experiment.command_line.options import Options

cli.define_common_flags()
cli.define_overwrite_flag()
flags.DEFINE_multi_string("solution", [], "Checkpoint of --mode=surface; given three times, those of --mode=plane")
flags.DEFINE_string("run", "", "Directory of the run of --mode=trajectory and --mode=instability.")
flags.DEFINE_string("ckpt_start", "", "Checkpoint at coefficient 0; a run directory means its last one.")
flags.DEFINE_string("ckpt_end", "", "Checkpoint at coefficient 1; a run directory means its last one.")
flags.DEFINE_string("operative_gin", "", "Describes network and data; what lies beside --ckpt_end if not given.")
flags.DEFINE_enum(
    "load_mask_from",
    None,
    ["0", "1", "-1"],
    "Of published command lines: 0, 1 and -1 mean interpolate.masks='start', 'end' and 'none'.",
)
flags.DEFINE_bool("eval_on_train", None, "Of published command lines: changes nothing, every split is evaluated.")


def define_mode() -> None:
    """Defines --mode, which train.py has too."""
    cli.define_mode(
        ["path", "surface", "plane", "trajectory", "instability", "train_eval"],
        "The path between two checkpoints (train_eval in published command lines); the loss around one, through three "
        "or on a run's way; or copies of a run.",
    )


def main() -> None:
    """Runs the selected mode; what is stored is not evaluated again."""
    cli.import_tensorflow()
    from sparse_lib.experiment.command_line import commands

    options, directory, mode = Options.from_flags(), pathlib.Path(flags.FLAGS.logdir), flags.FLAGS.mode
    common = {"operative": flags.FLAGS.operative_gin, "overwrite": flags.FLAGS.overwrite}
    if mode in ("path", "train_eval"):
        commands.interpolate(
            options,
            directory,
            start=flags.FLAGS.ckpt_start,
            end=flags.FLAGS.ckpt_end,
            masks={"0": "start", "1": "end", "-1": "none"}.get(flags.FLAGS.load_mask_from),
            **common,
        )
    elif mode == "instability":
        commands.instability(options, directory, run_directory=flags.FLAGS.run, **common)
    else:
        solutions, run = flags.FLAGS.solution, flags.FLAGS.run
        commands.picture(options, mode, directory, solutions=solutions, run_directory=run, **common)


if __name__ == "__main__":
    define_mode()
    cli.run(main)
