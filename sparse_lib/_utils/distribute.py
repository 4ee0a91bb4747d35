"""tf.distribute strategies by name, and helpers for code that runs under any of them."""

import socket
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from sparse_lib._utils.errors import InputError
from sparse_lib._utils.strategy_names import STRATEGIES

# Longest wait for a TPU worker to accept a connection (seconds).
_TPU_SECONDS = 20.0


def make_strategy(name: str = "auto", tpu_address: str = "") -> tf.distribute.Strategy:
    """Builds a tf.distribute strategy.

    Args:
      name: `cpu` or `gpu` (one device), `mirrored` (all local accelerators, or all logical CPU devices without
        accelerators), `multiworker` (TF_CONFIG), `tpu`, or `auto`: one accelerator if there is exactly one,
        `mirrored` if there are several, otherwise the CPU.
      tpu_address: address of the TPU worker, for `tpu` only.

    Returns:
      The strategy; `auto` and `cpu` without accelerators give TensorFlow's default strategy, which has no overhead.

    Raises:
      InputError: for an unknown name, a GPU on a machine without one, or a TPU that cannot be reached.
    """
    if name not in STRATEGIES:
        raise InputError(f"--strategy={name} is not known; use one of {', '.join(STRATEGIES)}.")
    if name == "multiworker":
        # Before the devices are listed: collective operations cannot be set up afterwards.
        return tf.distribute.MultiWorkerMirroredStrategy()
    gpus = tf.config.list_logical_devices("GPU")
    if name == "auto":
        name = "mirrored" if len(gpus) > 1 else "gpu" if gpus else "cpu"
    if name == "cpu":
        return tf.distribute.OneDeviceStrategy("/cpu:0") if gpus else tf.distribute.get_strategy()
    if name == "gpu":
        if not gpus:
            raise InputError("--strategy=gpu needs a GPU and TensorFlow sees none; use --strategy=cpu.")
        return tf.distribute.OneDeviceStrategy("/gpu:0")
    if name == "mirrored":
        devices = gpus or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return _make_tpu_strategy(tpu_address)


def _make_tpu_strategy(address: str) -> tf.distribute.Strategy:
    try:
        _check_tpu(address)
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=address)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (OSError, ValueError, tf.errors.OpError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise InputError(
            f"The TPU at --tpu={address!r} cannot be reached ({reason}); give the address of a running one, such as "
            "grpc://10.0.0.2:8470."
        ) from error
    return tf.distribute.TPUStrategy(resolver)


def _check_tpu(address: str) -> None:
    """Connects to the workers of an address once, since TensorFlow waits for a dead one for ever."""
    for worker in address.split(","):
        place = urllib.parse.urlsplit(worker if "://" in worker else f"//{worker}")
        if place.port is not None:
            socket.create_connection((place.hostname or "", place.port), timeout=_TPU_SECONDS).close()


def sum_over_replicas(tensors: Sequence[tf.Tensor | None]) -> list[tf.Tensor | None]:
    """Sums tensors over the replicas, in replica context; the identity on one replica.

    Args:
      tensors: of this replica; None stays None.

    Returns:
      The sums, equal on all replicas.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return list(tensors)
    present = [tensor for tensor in tensors if tensor is not None]
    sums = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, present))
    return [None if tensor is None else next(sums) for tensor in tensors]


def merge(function: Callable[..., Any], *args: Any) -> Any:
    """Calls `function(strategy, *args)` once for all replicas, in cross-replica context.

    There, branches of `tf.cond` may assign mirrored variables, which replica context forbids.

    Args:
      function: takes the strategy and the arguments of all replicas as per-replica values.
      *args: of this replica.

    Returns:
      The result of the function.
    """
    strategy = tf.distribute.get_strategy()
    context = tf.distribute.get_replica_context()
    if context is None or not tf.distribute.has_strategy():
        return function(strategy, *args)
    return context.merge_call(function, args=args)


def per_replica(strategy: tf.distribute.Strategy, function: Callable[..., Any], *args: Any) -> Any:
    """Runs a function of tensors on every replica, from cross-replica context.

    Args:
      strategy: the current strategy.
      function: takes tensors.
      *args: tensors, variables or per-replica values.

    Returns:
      The results of the function, as per-replica values.
    """
    if not tf.distribute.has_strategy():
        return function(*args)
    return strategy.run(function, args=args)


def share_out(strategy: tf.distribute.Strategy, parts: Sequence[Any]) -> Any:
    """Distributes parts over the replicas, from cross-replica context.

    Args:
      strategy: of the replicas.
      parts: structures of tensors, one per replica.

    Returns:
      The parts as one per-replica value; on one replica, its part.
    """
    if strategy.num_replicas_in_sync == 1:
        return parts[0]
    return strategy.experimental_distribute_values_from_function(lambda own: parts[own.replica_id_in_sync_group])


def update(
    strategy: tf.distribute.Strategy, variable: tf.Variable, function: Callable[..., tf.Tensor], *args: Any
) -> None:
    """Assigns `function(copy, *args)` to every replica's copy of a variable, from cross-replica context.

    Args:
      strategy: the current strategy.
      variable: with one copy per replica.
      function: takes the copy and the arguments of its replica.
      *args: tensors, variables or per-replica values.
    """
    if not tf.distribute.has_strategy():
        variable.assign(function(variable, *args))
        return
    strategy.extended.update(variable, lambda copy, *own: copy.assign(function(copy, *own)), args=args, group=False)


def assign(strategy: tf.distribute.Strategy, variable: tf.Variable, value: Any) -> None:
    """Assigns to every replica's copy of a variable the value of that replica, from cross-replica context.

    Args:
      strategy: the current strategy.
      variable: with one copy per replica.
      value: a tensor or a per-replica value.
    """
    update(strategy, variable, lambda _, own: own, value)


def owner(variable: tf.Variable) -> tf.distribute.Strategy | None:
    """Returns the strategy that a variable was created under; None for a plain variable, which has no copies."""
    return getattr(variable, "distribute_strategy", None)


def copies(variable: tf.Variable) -> tuple[tf.Variable, ...]:
    """Returns the copies of a variable, one per replica; a variable of no strategy is its only copy."""
    return tuple(variable.values) if isinstance(variable, tf.distribute.DistributedValues) else (variable,)
