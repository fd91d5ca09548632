"""The unrolled network: states, step Jacobians, and the gradient along them."""
