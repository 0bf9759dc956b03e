"""Time, memory and FLOPs of models, and the machine that they are measured on."""
