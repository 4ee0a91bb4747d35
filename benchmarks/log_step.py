"""Cost of a log step on a data set of the size of MNIST: 10,000 test images, gradient on 1,000."""

import statistics
import time

from benchmarks import cases
from sparse_lib.experiment.data import Dataset
from sparse_lib.experiment.training.metrics import Measurements


def main(repeats: int = 7) -> None:
    """Prints the median time of the measurements of a log step, for both networks (s)."""
    dataset = Dataset(
        name="noise",
        train=cases.make_noise(1280),
        validation=cases.make_noise(1000),
        test=cases.make_noise(10_000),
        num_classes=10,
    )
    print("\nA log step, 10,000 test images and the gradient on 1,000")
    for network in cases.NETWORKS:
        case = cases.make_case(network, dataset.train)
        initial = [v.numpy() for v in case.model.trainable_variables]
        measurements = Measurements(case.model, case.optimizer, dataset, held_size=1000, initial=initial)
        measurements.scalars()
        times = []
        for _ in range(repeats):
            started = time.perf_counter()
            measurements.scalars()
            times.append(time.perf_counter() - started)
        print(f"  {network:<8} {statistics.median(times):.3f} s")


if __name__ == "__main__":
    main()
