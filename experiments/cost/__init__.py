"""What the library costs: time, memory, and what devices send each other."""
