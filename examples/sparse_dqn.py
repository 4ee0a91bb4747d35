"""Sparse reinforcement learning: DQN on CartPole with a dense network, static random masks and RigL.

The score of a seed is the mean return of its greedy policy, at most 500 in CartPole. Seeds are summarised by the
interquartile mean, as Agarwal et al. (2021, arXiv 2108.13264) advise. The methods are those of Graesser et al. (2022,
arXiv 2206.10369): ERK masks at 90%, and RigL until three quarters of training.

python sparse_dqn.py
"""

import argparse
from collections.abc import Callable

import gymnasium
import keras
import numpy as np
import tensorflow as tf
from scipy.stats import trim_mean

import sparse_lib

SPARSITY, WIDTH, LEARNING_RATE = 0.9, 64, 1e-3
ENVIRONMENTS, BATCH, CAPACITY = 8, 64, 20_000
DISCOUNT, TARGET_RATE, WARMUP = 0.95, 0.02, 100

Step = Callable[..., tf.Tensor]


def make_network() -> keras.Model:
    """Maps the four observations to the values of the two actions."""
    hidden = [keras.layers.Dense(WIDTH, "relu", name=f"hidden{i}") for i in (1, 2)]
    return keras.Sequential([keras.Input((4,)), *hidden, keras.layers.Dense(2, name="values")])


def make_optimizer(method: str, model: keras.Model, steps: int, seed: int) -> keras.optimizers.Optimizer:
    """Makes the network sparse, if the method is, and returns the optimizer that keeps it so."""
    adam = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps))
    if method == "dense":
        adam.build(model.trainable_variables)
        return adam
    masks = sparse_lib.sparsify(model, SPARSITY, "erk", seed=seed)
    sparse_lib.initialize(model, masks, seed=seed)
    updater = sparse_lib.RigL(frequency=100, end_step=3 * steps // 4) if method == "rigl" else None
    optimizer = sparse_lib.SparseOptimizer(adam, masks, updater, seed=seed)
    optimizer.build(model.trainable_variables)
    return optimizer


def compile_steps(model: keras.Model, target: keras.Model, optimizer: keras.optimizers.Optimizer) -> tuple[Step, Step]:
    """Compiles the greedy choice of actions, and a step of learning from a batch of transitions."""

    @tf.function
    def act(states: tf.Tensor) -> tf.Tensor:
        return tf.argmax(model(states), axis=1)

    @tf.function
    def learn(states: tf.Tensor, actions: tf.Tensor, next_states: tf.Tensor, goes_on: tf.Tensor) -> tf.Tensor:
        # Double DQN: the network chooses, its average judges. Every step of CartPole has reward 1.
        best = tf.argmax(model(next_states), axis=1)
        returns = 1 + DISCOUNT * goes_on * tf.gather(target(next_states), best, batch_dims=1)
        with tf.GradientTape() as tape:
            values = tf.gather(model(states, training=True), actions, batch_dims=1)
            loss = tf.reduce_mean(keras.losses.huber(returns[:, None], values[:, None]))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        for average, variable in zip(target.variables, model.variables, strict=True):
            average.assign_add(TARGET_RATE * (variable - average))
        return loss

    return act, learn


def train(model: keras.Model, optimizer: keras.optimizers.Optimizer, steps: int, seed: int) -> Step:
    """Trains by DQN, one gradient step per step of all environments; returns the greedy policy."""
    rng = np.random.default_rng(seed)
    target = keras.models.clone_model(model)
    target.set_weights(model.get_weights())
    act, learn = compile_steps(model, target, optimizer)
    environments = gymnasium.make_vec("CartPole-v1", ENVIRONMENTS, vectorization_mode="vector_entry_point")
    states, _ = environments.reset(seed=seed)
    replay = [
        np.zeros((CAPACITY, *shape), kind) for shape, kind in (((4,), "f4"), ((), "i8"), ((4,), "f4"), ((), "f4"))
    ]
    stored, is_new = 0, np.zeros(ENVIRONMENTS, bool)
    for step in range(WARMUP + steps):
        if step >= WARMUP:
            rows = rng.integers(min(stored, CAPACITY), size=BATCH)
            learn(*(tf.constant(field[rows]) for field in replay))
        explores = rng.random(ENVIRONMENTS) < max(0.05, 1 - 3 * step / steps)
        actions = np.where(explores, rng.integers(2, size=ENVIRONMENTS), act(tf.constant(states)).numpy())
        next_states, _, ended, cut, _ = environments.step(actions)
        # The step after the end of an episode starts a new one, and is no transition.
        transitions = (states, actions, next_states, 1.0 - ended)
        places = (stored + np.arange(np.sum(~is_new))) % CAPACITY
        for field, values in zip(replay, transitions, strict=True):
            field[places] = values[~is_new]
        stored, states, is_new = stored + len(places), next_states, ended | cut
    return act


def evaluate(act: Step, seed: int, episodes: int = 32) -> float:
    """Returns the mean return of the greedy policy over the first episode of each of some environments."""
    environments = gymnasium.make_vec("CartPole-v1", episodes, vectorization_mode="vector_entry_point")
    states, _ = environments.reset(seed=seed)
    returns, running = np.zeros(episodes), np.ones(episodes, bool)
    while running.any():
        states, rewards, ended, cut, _ = environments.step(act(tf.constant(states)).numpy())
        returns += rewards * running
        running &= ~(ended | cut)
    return float(returns.mean())


def score(method: str, steps: int, seed: int) -> tuple[float, int]:
    """Trains one seed of a method; returns its score and the number of weights that are not zero."""
    keras.utils.set_random_seed(seed)
    model = make_network()
    act = train(model, make_optimizer(method, model, steps, seed), steps, seed)
    weights = sum(int(np.count_nonzero(layer.kernel)) for layer in model.layers)
    return evaluate(act, seed=1000 + seed), weights


def main() -> None:
    """Prints a table of the methods."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=4, help="runs of each method")
    parser.add_argument("--steps", type=int, default=5000, help="gradient steps of a run")
    flags = parser.parse_args()
    print(f"{'method':8}{'weights':>9}{'IQM':>8}   score of each seed")
    for method in ("dense", "static", "rigl"):
        runs = [score(method, flags.steps, seed) for seed in range(flags.seeds)]
        scores = [run[0] for run in runs]
        listed = " ".join(f"{value:5.0f}" for value in scores)
        print(f"{method:8}{runs[0][1]:9,}{trim_mean(scores, 0.25):8.1f}   {listed}", flush=True)


if __name__ == "__main__":
    main()
