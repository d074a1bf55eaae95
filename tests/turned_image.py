"""An image that lies turned in the run, and its affine."""

import numpy as np

HEIGHT, WIDTH = 300, 400
TURN = np.deg2rad(25)
# image px -> um: rotated by 25 degrees, mirrored in y, 0.3 um per px
TO_UM = np.array(
    [[0.3 * np.cos(TURN), 0.3 * np.sin(TURN), 40], [0.3 * np.sin(TURN), -0.3 * np.cos(TURN), 90], [0, 0, 1.0]]
)
PX_PER_UM = 4.0


def to_um(xy):
    return np.column_stack([xy, np.ones(len(xy))]) @ TO_UM[:2].T
