"""Measurements on finished runs: spectra, interpolation, loss surfaces, instability."""
