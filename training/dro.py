"""Group DRO: train for the group on which the model does worst.

Sagawa, Koh, Hashimoto and Liang 2020, "Distributionally Robust Neural Networks for Group Shifts" (arXiv:1911.08731),
Algorithm 1 as their own code has it: batches in which groups are equally frequent on average, and a weight for each group that
grows exponentially with the loss of that group, whatever the others do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import keras


def group_dro(loss: keras.losses.Loss, cells: int, step: float) -> keras.losses.Loss:
    """A loss that weighs `cells` groups adversarially: q_g <- q_g exp(step * loss of g), normalised; the loss is sum q_g loss_g.

    loss: the loss of a single face, such as CategoricalCrossentropy. The number of a face's cell, 0..cells-1, comes in the place
    of its sample weight, as float (n,); -1: the face is in no cell and keeps its share of the batch. A cell without a face in
    the batch keeps its q up to normalising. Without sample weights, as in validation, this is the plain mean loss.
    `weights` of what is returned is q, float32 (cells,); it is state that a resumed training has to get back.
    """
    import keras
    from keras import ops

    class GroupDRO(keras.losses.Loss):
        """Made in a function because its base class is Keras's."""

        def __init__(self) -> None:
            super().__init__(name="group_dro")
            # On several GPUs each replica updates by its own part of the batch, and the mean of these is kept.
            self.weights = keras.Variable(
                np.full(cells, 1 / cells), dtype="float32", trainable=False, aggregation="mean", name="group_weights"
            )

        def __call__(self, y_true: object, y_pred: object, sample_weight: object = None) -> object:
            if sample_weight is None:
                return loss(y_true, y_pred)
            cell = ops.cast(ops.reshape(sample_weight, (-1,)), "int32")
            member = ops.one_hot(cell, cells, dtype="float32")  # all zeros for -1
            each = ops.stop_gradient(ops.cast(loss.call(y_true, y_pred), "float32"))
            count = ops.sum(member, axis=0)
            mean = ops.sum(member * each[:, None], axis=0) / ops.maximum(count, 1.0)
            # By logarithms, as exp(step * loss) alone has no end in float32. A weight that fell to 0 could never grow again.
            known = ops.maximum(self.weights, np.finfo(np.float32).tiny)
            self.weights.assign(ops.softmax(ops.log(known) + step * mean))
            # sum over g of q_g * (mean loss of g), written as a weight for each face, so that Keras's own reduction applies.
            share = ops.convert_to_tensor(self.weights) / ops.maximum(count, 1.0) * ops.sum(count)
            of_face = ops.where(cell >= 0, ops.matmul(member, share[:, None])[:, 0], 1.0)
            return loss(y_true, y_pred, sample_weight=ops.stop_gradient(of_face))

    return GroupDRO()
