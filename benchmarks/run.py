"""All benchmarks in sequence: `make bench`."""

from benchmarks import core, end_to_end, hessian, large, log_step, sparse_training, sparse_uses, steps


def main() -> None:
    """Runs every benchmark, each of which prints its ratios."""
    steps.main()
    sparse_training.main()
    sparse_uses.main()
    core.main()
    log_step.main()
    end_to_end.main()
    hessian.main()
    large.main()


if __name__ == "__main__":
    main()
