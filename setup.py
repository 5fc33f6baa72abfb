"""Packaging of fer_keras. `pip install -e .` runs the toolkit, `pip install -e .[test]` also its tests."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "fer_keras" / "__init__.py").read_text(encoding="utf-8")).group(1)
#: What saved_models/ ships; models of one's own beside them are not packed.
MODELS = ("fer2013-cnn", "fer2013-ensemble", "ferplus-cnn", "ferplus-densenet121", "ferplus-ensemble")

setup(
    name="fer_keras",
    version=VERSION,
    description="Facial expression recognition with TensorFlow/Keras: prepare, train, audit, export, stream",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    packages=[
        *find_packages(include=["fer_keras", "fer_keras.*", "training", "training.*", "serving", "serving.*"]),
        "fer_keras.saved_models",
    ],
    package_dir={"fer_keras.saved_models": "saved_models"},  # so that the models come with an install that leaves the clone
    package_data={
        "training": ["configs/*"],
        "serving": ["templates/*", "static/*"],
        "fer_keras.saved_models": [f"{name}/**" for name in MODELS],
    },
    python_requires=">=3.10,<3.14",  # the Pythons that TensorFlow 2.21 has wheels for
    install_requires=[
        "tensorflow>=2.18,<2.23",  # from 2.18 on built for NumPy 2; a minor release may change what a seed gives
        "keras>=3.8,<4",  # 3.8: `variable.path` of dropout states, which resuming needs
        "tensorboard>=2.18,<3",  # TensorFlow no longer brings it from 2.20 on
        "numpy>=2.0,<3",
        "pandas>=2.2,<4",
        "scipy>=1.12,<2",
        "scikit-learn>=1.5,<2",
        "matplotlib>=3.9,<4",
        "Pillow>=10.3,<14",  # 10.3 closes a buffer overflow in decoding
        "opencv-python>=4.10,<5",  # 5.0 has no CascadeClassifier and none of its xml files
        "mtcnn>=1.0,<2",  # carries its weights since 1.0
        "joblib>=1.3,<2",  # those weights are joblib files, compressed with lz4
        "lz4>=4.3,<5",
        "openvino>=2025.1,<2027",  # runs detector and models several times faster than TensorFlow on a CPU
        "fairlearn>=0.14,<1",  # MetricFrame, under training.bias; 0.14 is the last for Python 3.10
        "flask>=3.1,<4",  # 3.1 limits the body of a single request
        "werkzeug>=3.1,<4",
        "cheroot>=10,<12",  # serves serving.app: bounded threads, endless answers unbuffered
        "prometheus-client>=0.20,<1",
        "filelock>=3.20,<5",  # from 3.20 on it minds lock files that were deleted meanwhile
        "PyYAML>=6.0.1,<7",
        "tqdm>=4.66,<5",
    ],
    extras_require={
        "parquet": ["pyarrow>=17,<27"],  # serving.predict --parquet
        "deploy": ["gunicorn>=24,<28"],  # 22 and 23 closed request smuggling holes; the worker needs 24
        "test": [
            "pyarrow>=17,<27",
            "gunicorn>=24,<28",
            "pytest>=8,<10",
            "pytest-xdist>=3.7,<4",
            "requests>=2.32,<3",
            "ruff>=0.9,<1",
            "jsonschema-rs>=0.30,<1",  # holds what is streamed to the API description; schemathesis brings it
            "schemathesis>=4,<5",  # throws what the API description allows, and what not, at the running server
            "selenium>=4.20,<5",  # drives Chromium
            "scikit-image>=0.24,<1",  # ships a photograph with a real face
        ],
    },
    entry_points={
        "console_scripts": [
            f"fer-{name}={room}.{name}:main"
            for room, names in {
                "training": [
                    "prepare",
                    "visualize",
                    "train",
                    "evaluate",
                    "corruptions",
                    "apply",
                    "compare",
                    "kfold",
                    "bias",
                    "synthesize",
                    "mitigate",
                    "robustness",
                    "ablate",
                    "average",
                    "ensemble",
                ],
                "serving": ["app", "predict", "desktop"],
            }.items()
            for name in names
        ]
    },
    license="MIT",
    classifiers=["Programming Language :: Python :: 3", "License :: OSI Approved :: MIT License"],
)
