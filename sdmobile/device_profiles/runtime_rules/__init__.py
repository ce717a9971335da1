"""What the phone runtimes are known to do: which operators, kernels and forms they choose."""
