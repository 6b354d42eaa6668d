"""Stands in for torchvision on a machine that has none: its `transforms`, as far as training scripts use them."""
