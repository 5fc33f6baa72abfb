"""fer_keras: facial expression recognition with TensorFlow/Keras, from raw pictures to an audited model.

Importing the package is cheap on purpose: TensorFlow, pandas and OpenCV are imported by the functions that use them.
"""

__version__ = "0.1.0"
