"""The verdict: criteria side by side, a prediction, a measurement, and what follows."""
