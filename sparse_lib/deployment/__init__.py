"""Pruned models for deployment: smaller dense models, LiteRT files, and what they cost."""

from sparse_lib.deployment.channels import Compacted, remove_dead_channels
from sparse_lib.deployment.coupling import ChannelGroup, channel_groups, prune_channels
from sparse_lib.deployment.litert import Latency, convert, export, latency, latency_table, outputs

__all__ = [
    "ChannelGroup",
    "Compacted",
    "Latency",
    "channel_groups",
    "convert",
    "export",
    "latency",
    "latency_table",
    "outputs",
    "prune_channels",
    "remove_dead_channels",
]
