"""What runs on a stream or on files: recognizer, runtimes, tracking, analyzer, ensembles."""
