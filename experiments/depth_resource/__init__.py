"""Depth as a resource: networks whose depth is changed after or during training."""
