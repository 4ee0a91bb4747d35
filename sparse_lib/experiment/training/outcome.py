"""How a run ended: trained, still on the plateau where it began, at chance, or diverged."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import special

Outcome = Literal["trained", "on_plateau", "at_chance", "diverged"]
TRAINED: Outcome = "trained"
ON_PLATEAU: Outcome = "on_plateau"
AT_CHANCE: Outcome = "at_chance"
DIVERGED: Outcome = "diverged"
Records = Sequence[Mapping[str, Any]]

# Probability with which a network that only guesses passes for one that does better.
SIGNIFICANCE = 0.001
# Share of the way from chance to 1 at which a network has left the plateau: 30% with ten balanced classes.
MARGIN = 2 / 9


class Guess(NamedTuple):
    """What a network scores that always answers the largest class.

    Attributes:
      accuracy: share of the largest class (fraction).
      examples: in the split (count).
    """

    accuracy: float
    examples: int

    @classmethod
    def of(cls, labels: np.ndarray) -> "Guess":
        """Counts the classes of a split.

        Args:
          labels: class indices, [n].

        Example:
          >>> import numpy as np
          >>> from sparse_lib.experiment.training.outcome import Guess
          >>> Guess.of(np.array([0, 1, 1, 2]))
          Guess(accuracy=0.5, examples=4)
        """
        return cls(int(np.bincount(labels).max()) / len(labels), len(labels))

    @property
    def plateau(self) -> float:
        """Accuracy above which a network has left the plateau, a + (1 - a) 2/9 with a = `accuracy` (fraction)."""
        return self.accuracy + MARGIN * (1 - self.accuracy)

    def explains(self, accuracy: float) -> bool:
        """Returns whether guessing explains an accuracy.

        It does where P(X >= k) > 0.001 for the number k of right answers and a binomial X of n = `examples` trials,
        each right with the probability `accuracy` of the largest class.

        Args:
          accuracy: of the network on the split (fraction).

        Example:
          On 1,000 images of ten balanced classes, guessing explains 12.9% and not 13.1%.

          >>> from sparse_lib.experiment.training.outcome import Guess
          >>> [Guess(0.1, 1000).explains(accuracy) for accuracy in (0.129, 0.131)]
          [True, False]
        """
        right = round(accuracy * self.examples)
        # The upper tail of a binomial is a regularised incomplete beta function.
        tail = special.betainc(right, self.examples - right + 1, self.accuracy) if right else 1.0
        return bool(tail > SIGNIFICANCE)

    def is_left_behind(self, accuracy: float) -> bool:
        """Returns whether an accuracy is above the plateau, and not explained by guessing (few examples)."""
        return accuracy > self.plateau and not self.explains(accuracy)


class Best(NamedTuple):
    """The log step with the best validation.

    Attributes:
      step: the first with the highest accuracy and, among those, the lowest loss (step).
      accuracy: on the validation split (fraction).
      loss: on the validation split (nats).
    """

    step: int
    accuracy: float
    loss: float

    def is_beaten_by(self, other: "Best") -> bool:
        """Returns whether another log step is better."""
        return (other.accuracy, -other.loss) > (self.accuracy, -self.loss)


def find_best(records: Records) -> Best | None:
    """Finds the log step with the best validation.

    Args:
      records: of metrics.jsonl, by step.

    Returns:
      The first with the highest accuracy and, among those, the lowest loss; None without validation images.
    """
    best: Best | None = None
    for record in records:
        if (found := read_validation(record)) and (best is None or best.is_beaten_by(found)):
            best = found
    return best


def read_validation(record: Mapping[str, Any]) -> Best | None:
    """Reads the validation of one record; None without validation images."""
    accuracy, loss = record.get("validation_accuracy"), record.get("validation_loss")
    if accuracy is None:
        return None
    # A loss that is not finite is null in JSON.
    return Best(record["step"], accuracy, float("inf") if loss is None or not np.isfinite(loss) else loss)


def find_step_off_plateau(records: Records, guess: Guess) -> int | None:
    """Finds the step at which a run left the plateau.

    Args:
      records: of metrics.jsonl, by step.
      guess: on the validation split, or on the training split where there are no validation images.

    Returns:
      The first log step whose validation accuracy is above `guess.plateau`, or whose training accuracy is where there
      are no validation images; None if there is none, which says that the run was on the plateau until its last log
      step (censored).
    """
    name = "validation_accuracy" if any("validation_accuracy" in record for record in records) else "train_accuracy"
    seen = ((record["step"], record.get(name)) for record in records)
    return next((step for step, accuracy in seen if accuracy is not None and guess.is_left_behind(accuracy)), None)


def describe(records: Records, guess: Guess, accuracy: float) -> dict[str, Any]:
    """Describes how a run went, for its result.json.

    Args:
      records: of metrics.jsonl, by step.
      guess: on the split that the accuracy is of.
      accuracy: at the end, on validation or, without validation images, training images; NaN for a run that diverged
        (fraction).

    Returns:
      `outcome`, `left_plateau_at`, `chance_accuracy`, and the step and values of the best validation.
    """
    left, best = find_step_off_plateau(records, guess), find_best(records)
    return {
        "outcome": _judge(guess, accuracy, left),
        "left_plateau_at": left,
        "chance_accuracy": guess.accuracy,
        "best_validation_step": best.step if best else None,
        "best_validation_accuracy": best.accuracy if best else None,
        "best_validation_loss": best.loss if best else None,
    }


def _judge(guess: Guess, accuracy: float, left: int | None) -> Outcome:
    if np.isnan(accuracy):
        return DIVERGED
    if guess.explains(accuracy):
        return AT_CHANCE
    return ON_PLATEAU if left is None else TRAINED


def warning(result: Mapping[str, Any]) -> str:
    """Describes in one line a run that has not trained.

    Args:
      result: content of result.json of a run that has not diverged.

    Returns:
      The line; empty for a run that has trained.
    """
    chance, left, outcome = result["chance_accuracy"], result["left_plateau_at"], result["outcome"]
    validated = result["validation_accuracy"]
    accuracy = result["train_accuracy"] if validated is None or np.isnan(validated) else validated
    if outcome == AT_CHANCE:
        history = "it never left the plateau" if left is None else f"it had left the plateau by step {left:,}"
        remedy = "network.weight_init_method='unit_scaled'" if left is None else "a lower optimizer.learning_rate"
        return (
            f"The run ends at chance: an accuracy of {accuracy:.4f} is no better than always answering the largest "
            f"class ({chance:.4f}), and {history}; try {remedy}."
        )
    if outcome == ON_PLATEAU:
        return (
            f"The run has not left the plateau: an accuracy of {accuracy:.4f} is more than chance ({chance:.4f}), and "
            f"no log step is above {Guess(chance, 1).plateau:.4f}; try more steps, or "
            "network.weight_init_method='unit_scaled'."
        )
    return ""
