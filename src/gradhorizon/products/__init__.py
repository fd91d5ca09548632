"""Long products without loss: spectra of Φ(T, 0) and norms of Φ(T, T-k)."""
