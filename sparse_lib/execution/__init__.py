"""Sparse execution: training steps that multiply by the active weights alone, on CPUs."""

from sparse_lib.execution.execution import MODES, Execution, KernelExecution, Mode, Plan

__all__ = ["MODES", "Execution", "KernelExecution", "Mode", "Plan"]
