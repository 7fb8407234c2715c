"""What this machine has (processors, memory, GPUs) and the environment of its worker processes. Knows no Ray."""
