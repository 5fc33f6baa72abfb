"""Raw pictures to FaceDataset to tf.data."""
