"""Trains, measures and exports the models of `models/`. Needs the `train` extra; not part of the wheel."""
