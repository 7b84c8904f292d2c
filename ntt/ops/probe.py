"""Ridge regression in closed form. Suffixes: N rows, D channels, C columns of targets."""

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


def ridge_directions(rows_ND: Doubles, weights_N: Doubles, targets_NC: Doubles, *, ridge: float) -> Doubles:
    """Solve (H + ridge * trace(H) / D * I) v_c = g_c (docs/method.md, equation 3).

    H is sum_i w_i a_i a_i^T and g_c is sum_i w_i y_ic a_i over rows a_i. With fewer rows than channels, v_c comes from
    the dual problem, A^T W^1/2 (W^1/2 A A^T W^1/2 + ridge * trace(H) / D * I)^-1 W^1/2 y_c.

    Args:
        rows_ND: a, one row per example.
        weights_N: w, not negative.
        targets_NC: y, the targets of each example.
        ridge: strength of the penalty, above 0, relative to the mean eigenvalue of H.

    Returns:
        float64 [D, C]; zeros if all rows are zero.
    """
    root_N1 = np.sqrt(weights_N)[:, None]
    scaled_ND, scaled_targets_NC = rows_ND * root_N1, targets_NC * root_N1
    count, channels = rows_ND.shape
    penalty = ridge * float(np.square(scaled_ND).sum()) / channels
    if penalty == 0.0:
        return np.zeros((channels, targets_NC.shape[1]))
    if count < channels:
        gram_NN = scaled_ND @ scaled_ND.T + penalty * np.eye(count)
        return np.asarray(scaled_ND.T @ np.linalg.solve(gram_NN, scaled_targets_NC))
    moments_DD = scaled_ND.T @ scaled_ND + penalty * np.eye(channels)
    return np.asarray(np.linalg.solve(moments_DD, scaled_ND.T @ scaled_targets_NC))
