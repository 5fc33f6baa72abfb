"""Command line programs that prepare data and train, evaluate and compare models. One thin module a command."""
