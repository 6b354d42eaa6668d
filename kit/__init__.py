"""Take training code written for one device and make it train on another, reproducibly."""

__version__ = "0.2.0"
