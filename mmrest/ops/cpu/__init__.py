"""What is for processors alone: matmuls by the faster library, MLPs in chunks."""
