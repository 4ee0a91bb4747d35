"""All benchmarks, one after the other: `make bench`."""

from benchmarks import core, end_to_end, hessian, large, log_step, steps


def main() -> None:
    """Runs every benchmark; each prints its own ratios."""
    steps.main()
    core.main()
    log_step.main()
    end_to_end.main()
    hessian.main()
    large.main()


if __name__ == "__main__":
    main()
