"""Pruned models for deployment: smaller dense models, LiteRT files, and what they cost."""

from sparse_lib.deployment.channels import Compacted, remove_dead_channels

__all__ = ["Compacted", "remove_dead_channels"]
