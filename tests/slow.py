"""Encoders for tests of interruptions; workers of a cluster import them from here."""

import time

from lemon_sc.models import ModelCard

CARD = ModelCard(name="slow-rgb", dim=3)


def slow(crops):
    time.sleep(0.1)
    return crops.mean(axis=(1, 2)) / 255


def failing(crops):
    msg = "the scanner was out of ink"
    raise RuntimeError(msg)
